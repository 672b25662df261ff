//! Sells lamps: the sale and its message are one transaction in an SQLite file.
//! `posthouse serve` in one terminal, this in another.

use posthouse_client::{Client, Message};
use posthouse_outbox_rusqlite::Outbox;
use rusqlite::Connection;
use std::error::Error;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server(server()).name("shop").connect().await?;
    client.admin().ensure_topic("sales").await?;
    client.admin().ensure_subscription("sales", "billing").await?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.db");
    let outbox = Outbox::new(&file);
    outbox.install()?;
    let relay = outbox.relay(&client).spawn();

    let mut db = Connection::open(&file)?;
    db.execute_batch(
        "CREATE TABLE stock (article TEXT PRIMARY KEY, pieces INTEGER CHECK (pieces >= 0));
                      INSERT INTO stock VALUES ('lamp', 2)",
    )?;
    for customer in ["Ada", "Ben", "Cleo"] {
        let sold = outbox.transaction(&mut db, |tx, out| {
            out.send(Message::new(format!("a lamp for {customer}")).key(customer).to("sales"));
            // The third lamp is not there: nothing is sold, and nothing is sent.
            tx.execute("UPDATE stock SET pieces = pieces - 1 WHERE article = 'lamp'", [])
        });
        say(&format!("{customer}: {}", if sold.is_ok() { "sold" } else { "out of stock" }))?;
    }

    let mut billing = client.consumer("sales", "billing").await?;
    for _ in 0..2 {
        let Some(delivery) = billing.next().await.transpose()? else { break };
        say(&format!("to be billed: {}", String::from_utf8_lossy(delivery.body())))?;
        delivery.ack().await?;
    }
    relay.shutdown().await?;
    client.close(Duration::from_secs(5)).await;
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")
}

/// `POSTHOUSE_SERVER`, as for the `posthouse` command.
fn server() -> String {
    std::env::var("POSTHOUSE_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned())
}
