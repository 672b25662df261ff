//! Throughput against latency, drawn as SVG: a point for each load that a broker was put under.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::record::Record;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const MARGIN: f64 = 70.0;
const LEGEND: f64 = 230.0;
/// Decades of the axes: messages a second, and microseconds.
const RATES: (i32, i32) = (2, 8);
const LATENCIES: (i32, i32) = (1, 6);
const COLOURS: [&str; 8] =
    ["#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f"];

/// A picture of all records that have a rate and a latency; squares are synced, circles written.
pub(crate) fn draw(records: &[&Record]) -> String {
    let mut series: BTreeMap<_, Vec<(f64, f64, &str)>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.parameters.contains_key("window")) {
        if let (Some(rate), Some(p50)) = (record.value("rate"), record.value("p50"))
            && rate > 0.0
            && p50 > 0.0
        {
            let points =
                series.entry((record.party.as_str(), record.durability.as_str())).or_default();
            points.push((rate, p50, &record.row));
        }
    }
    let mut out = frame();
    for (number, ((party, durability), points)) in series.iter_mut().enumerate() {
        points.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let colour = COLOURS.get(number % COLOURS.len()).copied().unwrap_or("black");
        let line: Vec<String> = points
            .iter()
            .map(|(rate, latency, _)| format!("{:.1},{:.1}", across(*rate), up(*latency)))
            .collect();
        push(
            &mut out,
            format_args!(
                r#"<polyline fill="none" stroke="{colour}" stroke-opacity="0.35" points="{}"/>"#,
                line.join(" ")
            ),
        );
        for (rate, latency, row) in points {
            let title = format!("{party}, {row}: {rate:.0} messages/s, p50 {latency:.0} us");
            push(&mut out, mark(durability, colour, across(*rate), up(*latency), &title));
        }
        let y = MARGIN + 18.0 * number as f64;
        let x = WIDTH - LEGEND + 20.0;
        push(&mut out, mark(durability, colour, x, y, ""));
        push(
            &mut out,
            format_args!(r#"<text x="{}" y="{}">{party} ({durability})</text>"#, x + 10.0, y + 4.0),
        );
    }
    out + "</svg>\n"
}

fn push(out: &mut String, text: impl std::fmt::Display) {
    writeln!(out, "{text}").expect("a string takes everything");
}

fn mark(durability: &str, colour: &str, x: f64, y: f64, title: &str) -> String {
    let title = format!("<title>{title}</title>");
    if durability == "synced" {
        let (x, y) = (x - 4.0, y - 4.0);
        return format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="8" height="8" fill="{colour}">{title}</rect>"#
        );
    }
    format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" fill="{colour}">{title}</circle>"#)
}

/// Where a value stands between two powers of ten, from 0 to 1.
fn share(value: f64, (low, high): (i32, i32)) -> f64 {
    ((value.log10() - f64::from(low)) / f64::from(high - low)).clamp(0.0, 1.0)
}

fn across(rate: f64) -> f64 {
    MARGIN + share(rate, RATES) * (WIDTH - MARGIN - LEGEND)
}

fn up(latency: f64) -> f64 {
    HEIGHT - MARGIN - share(latency, LATENCIES) * (HEIGHT - 2.0 * MARGIN)
}

fn frame() -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let (left, right) = (MARGIN, WIDTH - LEGEND);
    let (top, bottom) = (MARGIN, HEIGHT - MARGIN);
    for decade in RATES.0..=RATES.1 {
        let x = across(10_f64.powi(decade));
        push(
            &mut out,
            format_args!(
                "<path stroke=\"#ddd\" d=\"M{x:.1} {top}V{bottom}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                count(decade)
            ),
        );
    }
    for decade in LATENCIES.0..=LATENCIES.1 {
        let y = up(10_f64.powi(decade));
        push(
            &mut out,
            format_args!(
                "<path stroke=\"#ddd\" d=\"M{left} {y:.1}H{right}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} us</text>",
                left - 6.0,
                y + 4.0,
                count(decade)
            ),
        );
    }
    push(
        &mut out,
        format_args!(
            "<text x=\"{left}\" y=\"{}\" font-size=\"14\">Publishing: messages a second against median latency (squares synced, circles written)</text>",
            top - 24.0
        ),
    );
    push(
        &mut out,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">messages/s</text>",
            f64::midpoint(left, right),
            bottom + 36.0
        ),
    );
    out
}

/// A power of ten in short.
fn count(decade: i32) -> String {
    match decade {
        6.. => format!("{} M", 10_i64.pow(decade.unsigned_abs() - 6)),
        3..6 => format!("{} k", 10_i64.pow(decade.unsigned_abs() - 3)),
        _ => format!("{}", 10_i64.pow(decade.unsigned_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::record::Record;

    #[test]
    fn every_load_is_a_mark() {
        let record = |rate| {
            Record::new("compare", "row", "posthouse")
                .durability(false)
                .parameter("window", 1)
                .figure("rate", rate, "messages/s")
                .figure("p50", 100.0, "us")
        };
        let drawn = draw(&[&record(1e4), &record(1e5)]);
        assert_eq!(drawn.matches("<rect x=").count(), 3, "two points and one in the legend");
        assert!(drawn.ends_with("</svg>\n"));
    }
}
