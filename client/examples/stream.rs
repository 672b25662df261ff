//! A projection over a stream: reads on from the saved cursor, and saves it as it goes.

use posthouse_client::{Client, Mode, Position, Start, SubscriptionSettings};
use std::error::Error;
use std::io::Write;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server(server()).name("stream").connect().await?;
    let admin = client.admin();
    admin.ensure_topic("events").await?;
    let settings = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
    admin.create_subscription("events", "projector", settings, Start::Earliest).await?;

    let events = client.publisher("events").await?;
    for number in 0..10 {
        events.publish(format!("event {number}")).await?;
    }

    // Ends at the end of the topic; with `.follow()` it would wait for more.
    let mut reader = client.reader("events", Position::saved("projector")).await?;
    let mut total = 0;
    while let Some(record) = reader.next().await? {
        total += record.body().len();
        writeln!(std::io::stdout(), "{} {}", record.offset(), record.body().len())?;
        // Everything below is done: started again, the program goes on here.
        reader.save(record.offset().next()).await?;
    }
    writeln!(std::io::stdout(), "{total} bytes")?;

    client.close(Duration::from_secs(5)).await;
    Ok(())
}

/// `POSTHOUSE_SERVER`, as for the `posthouse` command.
fn server() -> String {
    std::env::var("POSTHOUSE_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned())
}
