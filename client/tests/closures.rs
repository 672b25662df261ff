//! Every call that takes a closure compiles where users have it: in a spawned task, with a captured
//! `Arc` and a borrow of a local; `Consumer::run` keeps its closure, which borrows what it owns then.
//! Nothing here runs; that it compiles is the test.

#![expect(clippy::disallowed_methods, reason = "what users do")]

use posthouse_client::{Client, Consumer, Delivery, Failure, Message, Outgoing};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What users share between handlers.
#[derive(Debug, Default)]
struct Prices(BTreeMap<Vec<u8>, u64>);

impl Prices {
    async fn of(&self, body: &[u8]) -> Result<u64, std::io::Error> {
        tokio::task::yield_now().await;
        self.0.get(body).copied().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

fn run(consumer: Consumer, prices: Arc<Prices>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let currency = String::from("EUR");
        let handler = move |delivery: Arc<Delivery>| {
            let (prices, currency) = (Arc::clone(&prices), currency.clone());
            async move {
                let body = delivery.body();
                let price = prices.of(body).await?;
                let line = format!("{price} {currency}");
                tokio::task::yield_now().await;
                drop(line);
                Ok::<_, std::io::Error>(())
            }
        };
        drop(consumer.run(4, handler).until(std::future::pending()).await);
    })
}

fn transform(consumer: Consumer, prices: Arc<Prices>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let currency = String::from("EUR");
        let transforming = consumer.transform(4, async |delivery| {
            let body = delivery.body();
            let price = prices.of(body).await?;
            let bill = Message::new(format!("{price} {currency}"));
            Ok::<_, std::io::Error>(vec![bill.to("bills")])
        });
        let stop = async { drop(currency.clone()) };
        drop(transforming.until(stop).await);
        drop(currency);
    })
}

/// With a handler that owns what it uses.
fn transform_owning(consumer: Consumer, prices: Arc<Prices>) -> JoinHandle<()> {
    let handler = move |delivery: Arc<Delivery>| {
        let prices = Arc::clone(&prices);
        async move {
            let price =
                prices.of(delivery.body()).await.map_err(|_| Failure::reject("no price"))?;
            Ok::<Vec<Outgoing>, Failure>(vec![Message::new(price.to_string()).to("bills")])
        }
    };
    tokio::spawn(async move { drop(consumer.transform(4, handler).await) })
}

fn commit(client: Client, delivery: Delivery, prices: Arc<Prices>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let topic = String::from("bills");
        let price = prices.of(delivery.body()).await.unwrap_or_default();
        let committing = client.commit().publish(topic.as_str(), price.to_string()).ack(delivery);
        drop(committing.await);
    })
}

#[test]
fn closures_compile_in_spawned_tasks() {
    let _compiled = (run, transform, transform_owning, commit);
}
