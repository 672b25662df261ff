//! The main job over bare frames: publish, hand out, acknowledge, stop, start again.

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use posthouse_broker::Exit;
use posthouse_protocol::batch::Messages;
use posthouse_protocol::message::{
    Credit, Deliver, DeliveryRun, ProducerOpen, Publish, Receipt, Settle, Subscribe,
    SubscriptionCreate, TopicCreate, Verdict,
};
use posthouse_protocol::settings::{Durability, Position};
use posthouse_protocol::{
    ConsumerId, Fence, Offset, ProducerId, Reply, Sequence, SubscriptionId, TopicId,
};
use support::{Wire, batch, name, start};

#[tokio::test]
async fn what_is_published_is_handed_out_and_what_is_acknowledged_is_not_again() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let topic = create(&mut wire).await;
    let receipt = publish(&mut wire, topic, &[b"one", b"two", b"three"]).await;
    assert_eq!((receipt.base, receipt.count), (Some(Offset(0)), 3));
    assert_eq!((receipt.durability, receipt.duplicate), (Durability::Synced, false));

    let (subscription, deliver, bodies) = consume(&mut wire).await;
    assert_eq!(bodies, [&b"one"[..], b"two", b"three"]);
    let slice = &deliver.slices[0];
    let fence = Fence { epoch: deliver.fence_epoch, counter: slice.fence_counter };
    let run = DeliveryRun { first: Offset(0), fence, count: 2 };
    let settled = wire.ask(ack(subscription, run), &[]).await;
    assert!(
        matches!(&settled, Reply::Settled(settled) if settled.refused.is_empty()),
        "{settled:?}"
    );
    drop(wire);

    let mut again = Wire::hello(&broker).await;
    let (_, deliver, bodies) = consume(&mut again).await;
    assert_eq!(bodies, [b"three"]);
    assert_eq!(deliver.ack_floor, Offset(2));
    drop(again);
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

async fn create(wire: &mut Wire) -> TopicId {
    let orders = TopicCreate { topic: name("orders"), settings: Default::default() };
    let reply = wire.ask(orders, &[]).await;
    let Reply::TopicInfo(info) = reply else { panic!("{reply:?}") };
    let billing = SubscriptionCreate {
        topic: name("orders"),
        subscription: name("billing"),
        settings: Default::default(),
        start: Position::Earliest,
    };
    let reply = wire.ask(billing, &[]).await;
    assert!(matches!(reply, Reply::SubscriptionInfo(_)), "{reply:?}");
    info.id
}

async fn publish(wire: &mut Wire, topic: TopicId, bodies: &[&[u8]]) -> Receipt {
    let reply = wire.ask(ProducerOpen { name: None, epoch: None }, &[]).await;
    let Reply::ProducerOpened(opened) = reply else { panic!("{reply:?}") };
    assert_ne!(opened.producer, ProducerId(0));
    let publish = Publish {
        topic,
        producer: opened.producer,
        epoch: opened.epoch,
        sequence: Sequence(1),
        prev: Sequence(0),
    };
    let reply = wire.ask(publish, &batch(bodies)).await;
    let Reply::Receipt(receipt) = reply else { panic!("{reply:?}") };
    receipt
}

async fn consume(wire: &mut Wire) -> (SubscriptionId, Deliver, Vec<Vec<u8>>) {
    let consumer = ConsumerId(1);
    let subscribe = Subscribe { consumer, topic: name("orders"), subscription: name("billing") };
    let reply = wire.ask(subscribe, &[]).await;
    let Reply::Subscribed(subscribed) = reply else { panic!("{reply:?}") };
    wire.send(Credit { consumer, messages: 10, bytes: 1 << 20, taken: 0 }, &[]).await;
    loop {
        let (_, reply, tail) = wire.receive().await.expect("a push");
        if let Reply::Deliver(deliver) = reply {
            let index: usize = deliver.slices.iter().map(|s| s.slice.index_len as usize).sum();
            assert_eq!(deliver.slices.len(), 1, "one batch, one slice");
            let (index, bodies) = tail.split_at(index);
            let bodies = Messages::new(index, bodies).map(|m| m.body.to_vec()).collect();
            return (subscribed.subscription, deliver, bodies);
        }
    }
}

fn ack(subscription: SubscriptionId, run: DeliveryRun) -> Settle {
    Settle {
        subscription,
        verdict: Verdict::Ack,
        delay_ms: 0,
        reason: String::new(),
        deliveries: vec![run],
    }
}
