//! Bills orders: the bill and the note that its message was handled are one transaction in SQLite, so
//! each order is billed once, however often its message comes. `DATABASE_URL`
//! (`sqlite:bills.db?mode=rwc`) and `POSTHOUSE_SERVER` say where they are.

use posthouse_client::{Client, Delivery};
use posthouse_outbox_sqlx::sqlite::Inbox;
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::io::Write as _;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = SqlitePool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS bills (text TEXT)").execute(&pool).await?;
    let client = Client::builder().server(std::env::var("POSTHOUSE_SERVER")?).connect().await?;
    client.admin().ensure_topic("orders").await?;
    client.admin().ensure_subscription("orders", "billing").await?;

    let inbox = Inbox::new(pool.clone(), "billing");
    inbox.install().await?;
    let consumer = client.consumer("orders", "billing").await?;
    let all_done = async {
        // An application would wait for a signal.
        while backlog(&client).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    inbox.run(consumer, 4, async |tx, delivery| bill(tx, delivery).await).until(all_done).await?;

    let bills: Vec<String> = sqlx::query_scalar("SELECT text FROM bills").fetch_all(&pool).await?;
    bills.iter().try_for_each(|bill| writeln!(std::io::stdout(), "{bill}"))?;
    client.close(Duration::from_secs(5)).await;
    Ok(())
}

async fn bill(tx: &mut Transaction<'_, Sqlite>, delivery: &Delivery) -> sqlx::Result<()> {
    let text = format!("bill for {}", String::from_utf8_lossy(delivery.body()));
    sqlx::query("INSERT INTO bills VALUES (?)").bind(text).execute(&mut **tx).await?;
    Ok(())
}

async fn backlog(client: &Client) -> u64 {
    let info = client.admin().describe_subscription("orders", "billing").await;
    info.map_or(1, |info| info.backlog)
}
