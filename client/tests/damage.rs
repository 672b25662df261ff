//! Bytes that rot in the files of a running broker: readers hear of it, and read everything else.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use posthouse_broker::{Broker, Config, Exit};
use posthouse_client::{Client, Message, Offset, Position, ReadError, TopicSettings};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What was read, in order: an offset, or what is damaged.
#[derive(Debug, PartialEq)]
enum Found {
    Sound(u64),
    Damaged(u64),
    Unreadable(u64, u64),
}

#[tokio::test]
async fn what_rots_under_a_broker_is_named_and_all_around_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.data_dir = folder.path().to_owned();
    config.listen.clear();
    let broker = Broker::start(config).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    for batch in 0..4 {
        // What one commit publishes to a topic is one batch.
        let messages = (0..3).map(|number| {
            let message = Message::new(format!("body-{batch}-{number}"));
            message.key(format!("key-{batch}-{number}")).to("orders")
        });
        client.commit().send_all(messages).await.unwrap();
    }
    assert_eq!(read(&client, Position::Earliest).await.len(), 12);

    // A body is one message's; the entries belong to the whole batch.
    rot(folder.path(), b"body-1-1");
    rot(folder.path(), b"key-2-1");

    use Found::{Damaged, Sound, Unreadable};
    let expected = [
        Sound(0),
        Sound(1),
        Sound(2),
        Sound(3),
        Damaged(4),
        Sound(5),
        Unreadable(6, 9),
        Sound(9),
        Sound(10),
        Sound(11),
    ];
    assert_eq!(read(&client, Position::Earliest).await, expected);
    let behind = [Unreadable(7, 9), Sound(9), Sound(10), Sound(11)];
    assert_eq!(read(&client, Position::Offset(Offset(7))).await, behind);
    drop(client);
    assert_eq!(broker.shutdown().await, Exit::Clean);
}

async fn read(client: &Client, from: Position) -> Vec<Found> {
    let mut reader = client.reader("orders", from).await.unwrap();
    let mut found = Vec::new();
    loop {
        found.push(match reader.next().await {
            Ok(Some(record)) => Found::Sound(record.offset().0),
            Ok(None) => return found,
            Err(ReadError::Damaged { offset, .. }) => Found::Damaged(offset.0),
            Err(ReadError::Unreadable { first, next }) => Found::Unreadable(first.0, next.0),
            Err(error) => panic!("{error}"),
        });
    }
}

/// Turns a bit of each place at which the files have these bytes.
fn rot(folder: &Path, bytes: &[u8]) {
    let mut hit = 0;
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(content) = fs::read(&file) else { continue };
        for at in content.windows(bytes.len()).enumerate().filter(|(_, found)| *found == bytes) {
            let open = fs::File::options().write(true).open(&file).unwrap();
            open.write_all_at(&[bytes[0] ^ 1], at.0 as u64).unwrap();
            hit += 1;
        }
    }
    assert!(hit > 0, "no file has {bytes:?}");
}
