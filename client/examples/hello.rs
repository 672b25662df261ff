//! Publishes one message and consumes it: `posthouse serve` in one terminal, this in another.

use posthouse_client::{Client, Message};
use std::error::Error;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::builder().server(server()).name("hello").connect().await?;
    client.admin().ensure_topic("greetings").await?;
    client.admin().ensure_subscription("greetings", "hello").await?;

    let greetings = client.publisher("greetings").await?;
    let receipt = greetings.publish(Message::new("hello, world").key("c-17")).await?;
    say(&format!("accepted id={} durability={:?}", receipt.id, receipt.durability))?;

    let mut consumer = client.consumer("greetings", "hello").await?;
    if let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        say(&format!("received {}", String::from_utf8_lossy(delivery.body())))?;
        delivery.ack().await?;
    }

    drop(consumer);
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
