//! Faults that take a cycle of their own: things are put back, or copied.

use crate::cast::Cast;
use crate::fault::Fault;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Operations between two states of something.
const OPERATIONS: u32 = 30;
/// What makes a relay go on although the broker has forgotten.
const GO_ON: &[&str] = &["--accept-restored-broker"];

/// Strikes, if it is one of these.
pub(crate) fn strike(cast: &mut Cast, fault: Fault) -> bool {
    if fault == Fault::RestoreSender {
        restore_sender(cast);
    } else if fault == Fault::CloneSender {
        clone_sender(cast);
    } else if fault == Fault::RestoreBroker {
        restore_broker(cast);
    } else {
        return false;
    }
    true
}

/// The sender's database is put back to a state in which its rows were not sent yet. They are sent
/// again, and what was committed since is forgotten there.
fn restore_sender(cast: &mut Cast) {
    cast.stop_relays();
    let mut app = cast.stage.app(OPERATIONS, &[], None);
    assert!(app.wait().success(), "{}", app.told());
    assert!(cast.stage.waiting().0 > 0, "nothing waits in the outbox");
    let path = cast.stage.path("sender.old");
    let copy = cast.stage.sender.copy(&path);
    let kept: BTreeSet<_> = cast.stage.committed().into_iter().collect();
    let app = cast.stage.app(OPERATIONS, &[], None);
    cast.finish(app);

    let before = cast.stage.committed();
    cast.stage.forgotten.extend(before.into_iter().filter(|op| !kept.contains(op)));
    cast.stage.may_repeat.extend(cast.stage.log().iter().map(|entry| entry.message));
    let sent = sent_before(cast);
    cast.stop_relays();
    cast.stage.sender.restore(&copy);
    cast.stage.era += 1;
    assert!(cast.stage.waiting().0 > 0, "the older state has nothing to send");
    cast.revive();
    let app = cast.stage.app(OPERATIONS, &[], None);
    cast.finish(app);
    assert!(sent_before(cast) > sent, "what waited was not sent again");
}

/// How often the log holds messages that it held when the database was put back.
fn sent_before(cast: &Cast) -> usize {
    let may_repeat = &cast.stage.may_repeat;
    cast.stage.log().iter().filter(|entry| may_repeat.contains(&entry.message)).count()
}

/// A copy of the sender's database, with rows that wait, comes up elsewhere. Its relay must refuse, or
/// they would be sent twice.
fn clone_sender(cast: &mut Cast) {
    cast.stop_relays();
    let mut app = cast.stage.app(OPERATIONS, &[], None);
    assert!(app.wait().success(), "{}", app.told());
    let before = cast.stage.log().len();
    let url = cast.stage.sender.clone_to(&cast.stage.path("clone.db"));
    let mut relay = cast.stage.relay_on(&url, "relay-of-a-copy", &[], None);
    assert!(!relay.wait().success(), "a relay works on a copy: {}", relay.told());
    let reason = relay.hear("failed");
    assert!(reason.contains("adopt"), "it does not say what to do: {reason}");
    assert_eq!(cast.stage.log().len(), before, "something was sent from a copy");
    cast.rest();
}

/// The broker is put back to a state in which it does not know what it acknowledged since. The relay
/// must not go on as if nothing were, and must go on when it is told; the view is made anew, as its
/// cursors say nothing any more.
fn restore_broker(cast: &mut Cast) {
    cast.stage.broker.take().expect("it runs").stop();
    let (data, old) = (cast.stage.path("broker"), cast.stage.path("broker.old"));
    copy_folder(&data, &old);
    cast.stage.start_broker(None);
    let app = cast.stage.app(OPERATIONS, &[], None);
    cast.finish(app);

    cast.view.take().expect("it runs").kill();
    let before = cast.stage.log();
    cast.stage.broker.take().expect("it runs").stop();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    cast.stage.start_broker(None);
    let kept: BTreeSet<_> = cast.stage.log().iter().map(|entry| entry.op).collect();
    let gone = before.iter().map(|entry| entry.op).filter(|op| !kept.contains(op));
    cast.stage.lost.extend(gone);
    cast.stage.forget_view();
    let app = cast.stage.app(OPERATIONS, &[], None);
    for relay in &mut cast.relays {
        let mut relay = relay.take().expect("it runs");
        assert!(!relay.wait().success(), "a relay goes on: {}", relay.told());
        let reason = relay.hear("failed");
        assert!(reason.contains("restored"), "it does not say what happened: {reason}");
    }
    cast.relay_options = GO_ON;
    cast.finish(app);
    cast.stop_relays();
    cast.relay_options = &[];
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {}", from.display());
}
