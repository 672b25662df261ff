//! Sells lamps: stock, order and message are one transaction in PostgreSQL, and a relay in the same
//! process hands the messages to the broker. `DATABASE_URL` and
//! `POSTHOUSE_SERVER` say where they are.

use posthouse_client::{Client, Message};
use posthouse_outbox_sqlx::Error;
use posthouse_outbox_sqlx::postgres::Outbox;
use sqlx::PgPool;
use std::io::Write as _;
use std::time::Duration;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS stock (article text PRIMARY KEY, amount int);
    CREATE TABLE IF NOT EXISTS sales (id bigint GENERATED ALWAYS AS IDENTITY, article text);
    INSERT INTO stock VALUES ('lamp', 3) ON CONFLICT (article) DO UPDATE SET amount = 3";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    let client = Client::builder().server(std::env::var("POSTHOUSE_SERVER")?).connect().await?;
    client.admin().ensure_topic("orders").await?;

    let outbox = Outbox::new(pool);
    outbox.install().await?;
    let relay = outbox.relay(&client).spawn();

    let mut said = std::io::stdout();
    for customer in ["Ada", "Ben", "Cleo", "Dan"] {
        match sell(&outbox, customer).await {
            Ok(order) => writeln!(said, "{customer}: order {order}")?,
            Err(error) => writeln!(said, "{customer}: nothing sold, nothing sent ({error})")?,
        }
    }

    // The messages are in the database, broker or not. Here we wait to see them gone.
    while outbox.lag().await?.rows > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    relay.shutdown().await?;
    writeln!(said, "all handed over")?;
    Ok(())
}

async fn sell(outbox: &Outbox, customer: &str) -> Result<i64, Error> {
    outbox
        .transaction(async |tx, out| {
            let take = "UPDATE stock SET amount = amount - 1 WHERE article = 'lamp' AND amount > 0";
            if sqlx::query(take).execute(&mut **tx).await?.rows_affected() == 0 {
                return Err(sqlx::Error::RowNotFound.into());
            }
            let insert = "INSERT INTO sales (article) VALUES ('lamp') RETURNING id";
            let order: i64 = sqlx::query_scalar(insert).fetch_one(&mut **tx).await?;
            let text = format!("order {order}: a lamp for {customer}");
            out.send(Message::new(text).key("lamp").to("orders"));
            Ok(order)
        })
        .await
}
