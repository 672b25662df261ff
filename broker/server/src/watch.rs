//! Keeping watch over a connection: heartbeats while nothing else is sent, an end when nothing comes.
//!
//! It looks every few seconds. A timer set and taken back for each frame would cost more than the
//! frame.

use crate::connection::Ended;
use crate::outbox::Connection;
use posthouse_protocol::message::Heartbeat;
use posthouse_protocol::{CorrelationId, Reply, limits};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Sends a heartbeat whenever nothing has been sent for [`limits::HEARTBEAT_SECONDS`] less a look;
/// ends when no whole frame has come for [`limits::IDLE_SECONDS_MAX`], at most a look later.
pub(crate) async fn watch(connection: &Connection) -> Ended {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    let (mut silent, mut quiet) = (Duration::ZERO, Duration::ZERO);
    loop {
        looks.tick().await;
        silent = if connection.was_heard() { Duration::ZERO } else { silent + LOOK };
        if silent >= Duration::from_secs(limits::IDLE_SECONDS_MAX) {
            return Ended::Silent;
        }
        quiet = if connection.spoke() { Duration::ZERO } else { quiet + LOOK };
        // One look more would be too late.
        if quiet + LOOK >= Duration::from_secs(limits::HEARTBEAT_SECONDS) {
            connection.send(CorrelationId::ZERO, &Reply::Heartbeat(Heartbeat {}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Memory;
    use crate::socket::Parts;
    use posthouse_engine::input::ConnectionId;
    use std::rc::Rc;
    use tokio::time::{Instant, sleep, timeout};

    fn stranger() -> Connection {
        Connection::new(ConnectionId(1), None, Rc::new(Memory::new(1 << 20, 1 << 20)))
    }

    fn connection() -> Connection {
        let connection = stranger();
        connection.greeted();
        connection
    }

    /// Takes what was sent, as the writer does. How many bytes that were.
    fn write(connection: &Connection) -> usize {
        let mut parts = Parts::default();
        connection.take_to_write(&mut parts);
        let bytes = parts.bytes();
        if bytes > 0 {
            connection.sent(bytes);
        }
        connection.written();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_left_after_45_seconds_and_not_before() {
        let start = Instant::now();
        let ended = watch(&connection()).await;

        assert!(matches!(ended, Ended::Silent));
        assert!((45..=50).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_hello_has_a_limit_of_its_own_and_then_silence_counts() {
        let connection = stranger();
        let watched = timeout(Duration::from_secs(600), watch(&connection)).await;
        assert!(watched.is_err(), "during the hello");
        assert_eq!(write(&connection), 0, "no heartbeat before the welcome");

        connection.greeted();
        let start = Instant::now();
        let ended = watch(&connection).await;
        assert!(matches!(ended, Ended::Silent));
        assert!(start.elapsed() >= Duration::from_secs(45), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_something_now_and_then_stays() {
        let connection = connection();
        let speaks = async {
            for _ in 0..20 {
                sleep(Duration::from_secs(40)).await;
                connection.heard();
            }
        };
        tokio::select! {
            ended = watch(&connection) => panic!("{ended}"),
            () = speaks => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_read_from_is_not_silent() {
        let connection = connection();
        connection.asked(CorrelationId(1), 2 << 20);
        let waits = timeout(Duration::from_secs(1000), connection.wait_for_room());
        tokio::select! {
            ended = watch(&connection) => panic!("{ended}"),
            waited = waits => assert!(waited.is_err(), "there is no room"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_goes_out_within_15_seconds_of_the_last_frame_and_only_then() {
        const STEP: Duration = Duration::from_millis(100);
        let connection = connection();
        let sends = async {
            let mut since = Duration::ZERO;
            for step in 1..600 {
                sleep(STEP).await;
                connection.heard();
                since += STEP;
                if write(&connection) > 0 {
                    assert!(since >= Duration::from_secs(5), "{since:?} after the last frame");
                    since = Duration::ZERO;
                }
                assert!(since <= Duration::from_secs(15) + STEP, "nothing was sent for {since:?}");
                if step == 90 {
                    connection.send(CorrelationId(1), &Reply::Heartbeat(Heartbeat {}));
                    assert!(write(&connection) > 0);
                    since = Duration::ZERO;
                }
            }
        };
        tokio::select! {
            ended = watch(&connection) => panic!("{ended}"),
            () = sends => {}
        }
    }
}
