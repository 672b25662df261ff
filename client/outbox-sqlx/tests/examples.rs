//! The examples of this package run as they are, one after the other, with real servers.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

use posthouse_broker::{Broker, Config};
use posthouse_databases::Postgres;
use std::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_sell_lamps_and_bill_them_once() {
    let mut config = Config::temporary().unwrap();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let broker = Broker::start(config).await.unwrap();
    let client = posthouse_client::Client::builder().connector(broker.connector());
    let client = client.connect().await.unwrap();
    client.admin().ensure_topic("orders").await.unwrap();
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    let server = broker.addresses()[0].clone();
    let folder = tempfile::tempdir().unwrap();

    let database = Postgres::shared().create_database().unwrap();
    let sold = run("outbox_postgres", database.url().to_owned(), server.clone()).await;
    assert!(sold.contains("Cleo: order 3") && sold.contains("Dan: nothing sold"), "{sold}");
    let bills = format!("sqlite:{}?mode=rwc", folder.path().join("bills.db").display());
    let billed = run("inbox", bills, server).await;
    let lines: Vec<_> = billed.lines().collect();
    assert_eq!(lines.len(), 3, "{billed}");
    assert!(lines.contains(&"bill for order 2: a lamp for Ben"), "{billed}");
}

/// What an example says.
async fn run(example: &'static str, database: String, server: String) -> String {
    let run = move || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Command::new(cargo)
            .args(["run", "--quiet", "--locked", "-p", "posthouse-outbox-sqlx"])
            .args(["--features", "postgres,mysql,sqlite", "--example", example])
            .env("DATABASE_URL", database)
            .env("POSTHOUSE_SERVER", server)
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    stdout
}
