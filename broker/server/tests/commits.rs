//! Commits and named producers over TCP: what a client gets, across reconnects and restarts.

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use bytes::Bytes;
use posthouse_broker::{Broker, Config, Exit};
use posthouse_protocol::message::{
    Commit, CommitPublish, Committed, CommittedPublish, Credit, CursorSave, Deliver, DeliveryRun,
    Operation, ProducerDescribe, ProducerList, ProducerOpen, ProducerOpened, ProducerRetire,
    RefusedAt, Settle, Subscribe, SubscriptionCreate, SubscriptionDescribe, TopicCreate, Verdict,
};
use posthouse_protocol::settings::{Durability, Mode, Position, SubscriptionSettings};
use posthouse_protocol::{
    ConsumerId, ErrorCode, Fence, Offset, ProducerEpoch, Reply, Sequence, SubscriptionId, limits,
};
use support::{Wire, batch, name, start};

#[tokio::test]
async fn commit_does_all_of_it_and_a_repeat_gets_the_first_result_even_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = start_in(directory.path()).await;
    let mut wire = Wire::hello(&broker).await;
    let (billing, reports) = prepare(&mut wire).await;
    let opened = open(&mut wire, None).await;
    let first = commit(&opened, 1, vec![publish("orders", &batch(&[b"one", b"two"]))]);
    let answer = committed(wire.ask(first, &batch(&[b"one", b"two"])).await);
    assert_eq!(answer.published, [placed(0, 2)]);
    let run = consume(&mut wire).await;

    let batches = [batch(&[b"a"]), batch(&[b"b", b"c"]), batch(&[b"three"])];
    let tail = batches.concat();
    let operations = vec![
        publish("audit", &batches[0]),
        ack(billing, run),
        publish("audit", &batches[1]),
        Operation::CursorSave(CursorSave { subscription: reports, offset: Offset(0) }),
        publish("orders", &batches[2]),
    ];
    let request = commit(&opened, 2, operations);
    let answer = committed(wire.ask(request.clone(), &tail).await);
    assert_eq!(answer.published, [placed(0, 1), placed(1, 2), placed(2, 1)]);
    assert_eq!((answer.durability, answer.duplicate), (Durability::Synced, false));

    let again = Committed { duplicate: true, ..answer };
    let mut other = Wire::hello(&broker).await;
    assert_eq!(committed(other.ask(request.clone(), &tail).await), again);
    drop((wire, other));
    assert_eq!(broker.shutdown().await, Exit::Clean);
    let broker = start_in(directory.path()).await;
    let mut wire = Wire::hello(&broker).await;
    assert_eq!(committed(wire.ask(request, &tail).await), again);
    let describe = SubscriptionDescribe { topic: name("orders"), subscription: name("billing") };
    let Reply::SubscriptionInfo(info) = wire.ask(describe, &[]).await else { panic!("no info") };
    assert_eq!((info.ack_floor, info.backlog), (Offset(2), 1));
}

#[tokio::test]
async fn tails_that_are_damaged_or_do_not_fit_are_refused_and_blame_the_operation() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let (billing, _) = prepare(&mut wire).await;
    let opened = open(&mut wire, None).await;
    let batches = [batch(&[b"one"]), batch(&[b"two", b"three"])];
    let tail = batches.concat();
    let nothing = DeliveryRun { first: Offset(0), fence: Fence::default(), count: 1 };
    let operations =
        vec![publish("audit", &batches[0]), ack(billing, nothing), publish("audit", &batches[1])];
    let request = commit(&opened, 1, operations);
    let mut damaged = tail.clone();
    *damaged.last_mut().expect("a byte") ^= 1;
    let mut header = tail.clone();
    header[batches[0].len() + 72] ^= 1;
    let at = |operation, message| Some(RefusedAt { operation, message });
    let cases: [(&[u8], ErrorCode, Option<RefusedAt>); 5] = [
        (&damaged, ErrorCode::Corrupt, at(2, 1)),
        (&header, ErrorCode::Corrupt, at(2, RefusedAt::NO_MESSAGE)),
        (&tail[..tail.len() - 1], ErrorCode::Malformed, None),
        (&[&tail[..], b"x"].concat(), ErrorCode::Malformed, None),
        (&[], ErrorCode::Malformed, None),
    ];
    for (tail, code, blamed) in cases {
        let Reply::Refused(refused) = wire.ask(request.clone(), tail).await else {
            panic!("not refused")
        };
        assert_eq!((refused.code, refused.at), (code.number(), blamed), "{}", refused.text);
    }
    let Reply::Refused(refused) = wire.ask(request, &tail).await else { panic!("not refused") };
    let stale = (ErrorCode::StaleFence.number(), at(1, RefusedAt::NO_MESSAGE));
    assert_eq!((refused.code, refused.at), stale);
}

#[tokio::test]
async fn commit_that_no_frame_of_the_journal_takes_is_refused_and_smaller_ones_go_on() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    prepare(&mut wire).await;
    let opened = open(&mut wire, None).await;
    let body = vec![7; 1 << 20];
    let one = batch(&[&body]);
    let request = |sequence, count| {
        let request = commit(&opened, sequence, vec![publish("audit", &one); count]);
        (request, one.repeat(count))
    };
    let (large, tail) = request(1, 4);
    let Reply::Refused(refused) = wire.ask(large, &tail).await else { panic!("not refused") };
    assert_eq!((refused.code, refused.at), (ErrorCode::TooLarge.number(), None));

    let (fits, tail) = request(1, 3);
    assert_eq!(committed(wire.ask(fits, &tail).await).published.len(), 3);
    let count = limits::LIST_ENTRIES_MAX as usize;
    let small = batch(&[b""]);
    let most = commit(&opened, 2, vec![publish("audit", &small); count]);
    assert_eq!(committed(wire.ask(most, &small.repeat(count)).await).published.len(), count);
}

#[tokio::test]
async fn named_producers_are_opened_with_epochs_described_listed_and_retired() {
    let broker = start(|_| {}).await;
    let mut wire = Wire::hello(&broker).await;
    let opened = open(&mut wire, Some(("outbox-1", 7))).await;
    assert_eq!(opened.epoch, ProducerEpoch(7));
    let empty = commit(&opened, 1, Vec::new());
    committed(wire.ask(empty, &[]).await);
    assert_eq!(open(&mut wire, Some(("outbox-1", 7))).await.last, Sequence(1));
    let lower = ProducerOpen { name: Some(name("outbox-1")), epoch: Some(ProducerEpoch(6)) };
    let Reply::Refused(refused) = wire.ask(lower, &[]).await else { panic!("not refused") };
    assert_eq!(refused.code, ErrorCode::Fenced.number());

    let describe = ProducerDescribe { name: name("outbox-1") };
    let Reply::ProducerInfo(info) = wire.ask(describe.clone(), &[]).await else { panic!("none") };
    assert_eq!(
        (info.producer, info.epoch, info.last),
        (opened.producer, ProducerEpoch(7), Sequence(1))
    );
    let list = ProducerList { after: None, limit: 10 };
    let Reply::ProducerInfos(infos) = wire.ask(list, &[]).await else { panic!("no list") };
    assert_eq!(infos.producers, [info]);
    let retire = ProducerRetire { name: name("outbox-1") };
    assert!(matches!(wire.ask(retire, &[]).await, Reply::Done(_)));
    let Reply::Refused(refused) = wire.ask(describe, &[]).await else { panic!("not refused") };
    assert_eq!(refused.code, ErrorCode::NotFound.number());
    let Reply::Refused(refused) = wire.ask(commit(&opened, 2, Vec::new()), &[]).await else {
        panic!("not refused")
    };
    assert_eq!(refused.code, ErrorCode::UnknownProducer.number());
}

async fn start_in(directory: &std::path::Path) -> Broker {
    let mut config = Config::default();
    config.data_dir = directory.join("data");
    config.listen = vec!["127.0.0.1:0".parse().expect("an address")];
    Broker::start(config).await.expect("a broker")
}

/// Makes `orders` with the queue `billing` and `audit` with the stream `reports`.
async fn prepare(wire: &mut Wire) -> (SubscriptionId, SubscriptionId) {
    let queue = SubscriptionSettings::default();
    let stream = SubscriptionSettings { mode: Mode::Stream, ..queue.clone() };
    let mut ids = Vec::new();
    for (topic, subscription, settings) in
        [("orders", "billing", queue), ("audit", "reports", stream)]
    {
        let create = TopicCreate { topic: name(topic), settings: Default::default() };
        assert!(matches!(wire.ask(create, &[]).await, Reply::TopicInfo(_)));
        let (topic, subscription) = (name(topic), name(subscription));
        let start = Position::Earliest;
        let create = SubscriptionCreate { topic, subscription, settings, start };
        let Reply::SubscriptionInfo(info) = wire.ask(create, &[]).await else { panic!("no info") };
        ids.push(info.id);
    }
    let [billing, reports] = ids.as_slice() else { panic!("two subscriptions") };
    (*billing, *reports)
}

async fn open(wire: &mut Wire, named: Option<(&str, u32)>) -> ProducerOpened {
    let epoch = named.map(|(_, epoch)| ProducerEpoch(epoch));
    let open = ProducerOpen { name: named.map(|(producer, _)| name(producer)), epoch };
    let Reply::ProducerOpened(opened) = wire.ask(open, &[]).await else { panic!("not opened") };
    opened
}

/// Takes the two messages of `orders`.
async fn consume(wire: &mut Wire) -> DeliveryRun {
    let consumer = ConsumerId(1);
    let subscribe = Subscribe { consumer, topic: name("orders"), subscription: name("billing") };
    assert!(matches!(wire.ask(subscribe, &[]).await, Reply::Subscribed(_)));
    wire.send(Credit { consumer, messages: 2, bytes: 1 << 20, taken: 0 }, &[]).await;
    loop {
        let (_, reply, _) = wire.receive().await.expect("a push");
        if let Reply::Deliver(Deliver { fence_epoch, slices, .. }) = reply {
            let slice = slices.first().expect("something was delivered");
            let fence = Fence { epoch: fence_epoch, counter: slice.fence_counter };
            return DeliveryRun { first: Offset(0), fence, count: slice.slice.count };
        }
    }
}

fn commit(opened: &ProducerOpened, sequence: u64, operations: Vec<Operation>) -> Commit {
    let ProducerOpened { producer, epoch, .. } = *opened;
    let (sequence, prev) = (Sequence(sequence), Sequence(sequence - 1));
    Commit { producer, epoch, sequence, prev, operations }
}

fn publish(topic: &str, batch: &Bytes) -> Operation {
    let bytes = u32::try_from(batch.len()).expect("a small batch");
    Operation::Publish(CommitPublish { topic: name(topic), bytes })
}

fn ack(subscription: SubscriptionId, run: DeliveryRun) -> Operation {
    Operation::Settle(Settle {
        subscription,
        verdict: Verdict::Ack,
        delay_ms: 0,
        reason: String::new(),
        deliveries: vec![run],
    })
}

fn placed(base: u64, count: u32) -> CommittedPublish {
    CommittedPublish { base: Some(Offset(base)), count }
}

fn committed(reply: Reply) -> Committed {
    let Reply::Committed(committed) = reply else { panic!("not committed: {reply:?}") };
    committed
}
