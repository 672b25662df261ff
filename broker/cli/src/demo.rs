//! `posthouse demo`: the main job told step by step, with real processes that are really killed.

mod evidence;
mod parts;
mod process;

use crate::cli::Common;
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::{Output, counted};
use clap::{Args, ValueEnum};
use evidence::{Evidence, Files};
use posthouse_client::Client;
use process::{BrokerProcess, PartProcess, Site};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const EXAMPLES: &str = "\
Examples:
  posthouse demo
  posthouse demo --messages 100000

A shop sells: each sale and the message about it are one transaction in the shop's SQLite file (an
outbox). Every tenth sale is rolled back. An office books each message in its own SQLite file (an
inbox). Shop, office and broker are real processes in a temporary directory, and all three are
killed with kill -9 in the middle. At the end there must be exactly one booking for each sale that
was committed and none for one that was not. Exits 1 if that does not hold. Leaves nothing behind.";

const TOPIC: &str = "sales";
const SUBSCRIPTION: &str = "office";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(3);
/// Longest time without any progress.
const STALL: Duration = Duration::from_secs(60);

/// Show the main job: sell through an SQLite outbox, kill -9 everything, one effect each, or exit 1
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Demo {
    /// How many sales to try
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    messages: u64,

    /// Be one of the processes of the demo
    #[arg(long, hide = true, requires = "folder")]
    part: Option<Part>,

    /// Where the demo's files are
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// The processes beside the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Shop,
    Office,
}

impl Demo {
    pub(crate) async fn run(self, common: &Common, output: &mut Output) -> Result<(), Failure> {
        if let (Some(part), Some(folder)) = (self.part, self.folder) {
            let files = Files::of(&folder);
            return match part {
                Part::Shop => parts::shop(&common.server, &files, self.messages).await,
                Part::Office => parts::office(&common.server, &files).await,
            };
        }
        let mut interrupt = Interrupt::new()?;
        // Dropped, the processes are killed and the directory removed.
        tokio::select! {
            done = Story::new(self.messages, output)?.tell() => done,
            _ = interrupt.next() => Err(Failure::refused("interrupted")),
        }
    }
}

/// The demo while it runs.
struct Story<'a> {
    output: &'a mut Output,
    messages: u64,
    site: Site,
    files: Files,
    step: u32,
}

/// What runs.
struct Cast {
    broker: BrokerProcess,
    shop: PartProcess,
    office: PartProcess,
}

#[derive(Serialize)]
struct Step<'a> {
    step: u32,
    text: &'a str,
}

impl<'a> Story<'a> {
    fn new(messages: u64, output: &'a mut Output) -> Result<Self, Failure> {
        let site = Site::new()?;
        let files = Files::of(site.folder());
        files.make()?;
        Ok(Self { output, messages, site, files, step: 0 })
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.step += 1;
        let step = Step { step: self.step, text };
        self.output.print(&step, format_args!("{:>2}. {text}", step.step))?;
        self.output.flush()
    }

    async fn tell(mut self) -> Result<(), Failure> {
        let broker = self.site.start()?;
        self.say(&format!("Started a broker: process {}, {}", broker.id(), broker.address()))?;
        let client = connect(broker.address()).await?;
        client.admin().ensure_topic(TOPIC).await?;
        client.admin().ensure_subscription(TOPIC, SUBSCRIPTION).await?;
        let cast = self.raise_the_curtain(broker)?;
        let cast = self.kill_them_all(cast).await?;
        let broker = self.run_to_the_end(&client, cast).await?;
        let handed_over = client.admin().describe_topic(TOPIC).await?.end.0;
        client.close(CLOSE_TIMEOUT).await;
        broker.stop()?;
        self.compare(handed_over)
    }

    fn raise_the_curtain(&mut self, broker: BrokerProcess) -> Result<Cast, Failure> {
        let shop = self.site.play(Part::Shop, self.messages)?;
        let office = self.site.play(Part::Office, self.messages)?;
        self.say(&format!(
            "Started a shop (process {}): a sale and its message are one transaction in its SQLite file",
            shop.id()
        ))?;
        self.say(&format!(
            "Started an office (process {}): it books each message in an SQLite file of its own",
            office.id()
        ))?;
        Ok(Cast { broker, shop, office })
    }

    /// Lets each of them die in the middle of its work.
    async fn kill_them_all(&mut self, mut cast: Cast) -> Result<Cast, Failure> {
        let quarter = self.messages / 4;
        self.until(&mut cast, |files| Ok(files.sold()? >= quarter)).await?;
        cast.shop.kill()?;
        let (sold, waiting) = (self.files.sold()?, self.files.waiting()?);
        self.say(&format!(
            "kill -9 the shop: {} committed, {} not handed over yet",
            counted(sold, "sale"),
            counted(waiting, "message")
        ))?;
        cast.shop = self.site.play(Part::Shop, self.messages)?;
        self.say(&format!("Started it again: process {}", cast.shop.id()))?;

        self.until(&mut cast, |files| Ok(files.sold()? >= 2 * quarter)).await?;
        cast.broker.kill()?;
        cast.broker = self.site.start()?;
        self.say(&format!(
            "kill -9 the broker and started it again: process {}; the shop goes on selling",
            cast.broker.id()
        ))?;

        self.until(&mut cast, |files| Ok(files.booked()? >= quarter)).await?;
        cast.office.kill()?;
        let booked = counted(self.files.booked()?, "booking");
        cast.office = self.site.play(Part::Office, self.messages)?;
        self.say(&format!(
            "kill -9 the office after {booked}; started it again: process {}",
            cast.office.id()
        ))?;
        Ok(cast)
    }

    async fn run_to_the_end(
        &mut self,
        client: &Client,
        mut cast: Cast,
    ) -> Result<BrokerProcess, Failure> {
        // The shop ends by itself once everything is handed over.
        let mut shop_ended = false;
        let mut watch = Watch::new();
        loop {
            shop_ended = shop_ended || cast.shop.has_ended()?;
            let subscription = client.admin().describe_subscription(TOPIC, SUBSCRIPTION).await?;
            if shop_ended && subscription.backlog == 0 {
                break;
            }
            cast.office.expect_alive()?;
            watch.look(&self.files)?;
            sleep(LOOK).await;
        }
        cast.office.stop()?;
        self.say("The shop has nothing left to hand over, and the office nothing left to book")?;
        Ok(cast.broker)
    }

    /// Waits, as long as something moves.
    async fn until(
        &self,
        cast: &mut Cast,
        done: impl Fn(&Files) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut watch = Watch::new();
        while !done(&self.files)? {
            cast.office.expect_alive()?;
            watch.look(&self.files)?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn compare(&mut self, handed_over: u64) -> Result<(), Failure> {
        let (sales, bookings) = (self.files.sales()?, self.files.bookings()?);
        self.say(&format!(
            "{} committed; {} handed over; {} made",
            counted(sales.count(), "sale"),
            counted(handed_over, "message"),
            counted(bookings.count(), "booking")
        ))?;
        self.say(&format!("sales     SHA-256 {}", sales.digest()))?;
        self.say(&format!("bookings  SHA-256 {}", bookings.digest()))?;
        judge(&sales, handed_over, &bookings)?;
        self.say("Exactly one effect for each committed sale, none for a rolled-back one")
    }
}

/// Whether the claim holds.
fn judge(sales: &Evidence, handed_over: u64, bookings: &Evidence) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::refused(format_args!("the claim does not hold: {text}")));
    if sales.has_rolled_back() || bookings.has_rolled_back() {
        return wrong("a sale that was rolled back is there");
    }
    if handed_over != sales.count() {
        return wrong("not every sale's message was handed over exactly once");
    }
    if sales.digest() != bookings.digest() || sales.count() != bookings.count() {
        return wrong("the bookings are not the sales");
    }
    Ok(())
}

/// Notices when nothing moves any more.
struct Watch {
    seen: [u64; 2],
    since: Instant,
}

impl Watch {
    fn new() -> Self {
        Self { seen: [0; 2], since: Instant::now() }
    }

    fn look(&mut self, files: &Files) -> Result<(), Failure> {
        let now = [files.sold()?, files.booked()?];
        if now != self.seen {
            *self = Self { seen: now, since: Instant::now() };
        }
        if self.since.elapsed() < STALL {
            return Ok(());
        }
        let [sold, booked] = now;
        let text = format_args!("nothing moves any more: {sold} sales, {booked} bookings");
        Err(Failure::refused(text))
    }
}

async fn connect(address: &str) -> Result<Client, Failure> {
    let builder = Client::builder().server(address).name("posthouse demo");
    Ok(builder.connect_timeout(CONNECT_TIMEOUT).connect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_fails_on_every_difference() {
        let of = |numbers: &[u64]| {
            let mut evidence = Evidence::default();
            numbers.iter().for_each(|number| evidence.add(*number, b"x"));
            evidence
        };
        let sales = of(&[0, 1, 2]);
        assert_eq!(judge(&sales, 3, &of(&[0, 1, 2])), Ok(()));
        for (handed_over, bookings) in
            [(3, of(&[0, 1])), (3, of(&[0, 1, 2, 2])), (3, of(&[0, 1, 3])), (4, of(&[0, 1, 2]))]
        {
            assert!(judge(&sales, handed_over, &bookings).is_err());
        }
        assert!(judge(&of(&[9]), 1, &of(&[9])).is_err(), "that one was rolled back");
    }
}
