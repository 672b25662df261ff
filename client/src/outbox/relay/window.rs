//! Claims on their way to the broker: sent in order, each naming the one before it, several at once.
//!
//! The broker takes a commit only if the one that it names is the last that it took, so a refusal
//! also refuses everything sent behind it. Then nothing is sent until everything that was sent has
//! its answer, and all goes out again, unchanged, in order.

use super::time::Time;
use crate::outbox::RowId;
use std::collections::VecDeque;

/// One claim that the broker is not known to have, or not in its turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) sequence: u64,
    /// Ascending.
    pub(crate) rows: Vec<RowId>,
    /// What they weigh together.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// To be sent.
    Waiting,
    /// Sent, without an answer.
    Sent,
    /// Taken by the broker, as that of one before it is not known to be.
    Accepted,
}

/// The claims under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    flights: VecDeque<(Flight, State)>,
    /// The broker has taken everything up to here.
    last: u64,
    /// If something was refused: when sending may start again, once all is answered.
    rewind: Option<Time>,
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sending {
    pub(crate) sequence: u64,
    pub(crate) prev: u64,
}

impl Window {
    /// Nothing under way behind what the broker has.
    pub(crate) const fn new(last: u64) -> Self {
        Self { flights: VecDeque::new(), last, rewind: None }
    }

    /// Adds a claim that is recorded in the database.
    pub(crate) fn push(&mut self, flight: Flight) {
        self.flights.push_back((flight, State::Waiting));
    }

    /// The broker has taken everything up to here.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// How many claims are under way.
    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// The rows of those under way.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &RowId> {
        self.flights.iter().flat_map(|(flight, _)| &flight.rows)
    }

    /// The sequences of those under way.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.flights.iter().map(|(flight, _)| flight.sequence)
    }

    /// One of those under way.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Flight> {
        self.flights.iter().map(|(flight, _)| flight).find(|flight| flight.sequence == sequence)
    }

    /// Whether it is the first that the broker is not known to have.
    pub(crate) fn is_first(&self, sequence: u64) -> bool {
        self.flights.front().is_some_and(|(flight, _)| flight.sequence == sequence)
    }

    /// Takes the next claim to be sent.
    pub(crate) fn send(&mut self, now: Time) -> Option<Sending> {
        if let Some(at) = self.rewind {
            if now < at || self.is_any_sent() {
                return None;
            }
            self.rewind = None;
        }
        let mut prev = self.last;
        for (flight, state) in &mut self.flights {
            if *state == State::Waiting {
                *state = State::Sent;
                return Some(Sending { sequence: flight.sequence, prev });
            }
            prev = flight.sequence;
        }
        None
    }

    fn is_any_sent(&self) -> bool {
        self.flights.iter().any(|(_, state)| *state == State::Sent)
    }

    /// When [`Self::send`] has something that no answer will bring about.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.rewind.filter(|_| !self.flights.is_empty() && !self.is_any_sent())
    }

    /// The broker has taken this one. Returns those that are thereby finished, in order.
    pub(crate) fn accept(&mut self, sequence: u64) -> Vec<Flight> {
        let found = self.flights.iter_mut().find(|(flight, _)| flight.sequence == sequence);
        if let Some((_, state)) = found {
            *state = State::Accepted;
        }
        let mut finished = Vec::new();
        while let Some((flight, _)) = self.flights.pop_front_if(|it| it.1 == State::Accepted) {
            self.last = flight.sequence;
            finished.push(flight);
        }
        finished
    }

    /// The broker says what the last one is that it took, and takes nothing more of what was sent.
    /// Returns those that are thereby finished, in order.
    pub(crate) fn reopen(&mut self, last: u64) -> Vec<Flight> {
        let mut finished = Vec::new();
        while let Some((flight, _)) = self.flights.pop_front_if(|it| it.0.sequence <= last) {
            finished.push(flight);
        }
        self.last = last;
        self.rewind = None;
        self.flights.iter_mut().for_each(|(_, state)| *state = State::Waiting);
        finished
    }

    /// This one was not taken: all is sent again from `at` on.
    pub(crate) fn refuse(&mut self, sequence: u64, at: Time) {
        let found = self.flights.iter_mut().find(|(flight, _)| flight.sequence == sequence);
        if let Some((_, state)) = found {
            *state = State::Waiting;
            self.rewind = Some(self.rewind.map_or(at, |before| before.max(at)));
        }
    }

    /// Changes the rows of one, or removes it if none are left.
    pub(crate) fn rewrite(&mut self, sequence: u64, rows: &[RowId]) {
        self.flights.retain_mut(|(flight, _)| {
            if flight.sequence == sequence {
                flight.rows = rows.to_vec();
            }
            !flight.rows.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_claim_names_the_one_before_it() {
        let mut window = window(4, &[5, 6, 8]);

        let sent: Vec<_> = std::iter::from_fn(|| window.send(Time(0))).collect();

        assert_eq!(sent, [sending(5, 4), sending(6, 5), sending(8, 6)]);
    }

    #[test]
    fn claims_finish_in_order_whatever_the_order_of_answers() {
        let mut window = window(0, &[1, 2]);
        while window.send(Time(0)).is_some() {}

        assert!(window.accept(2).is_empty());
        assert_eq!(window.last(), 0);
        let finished = window.accept(1);

        assert_eq!(finished.iter().map(|flight| flight.sequence).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((window.last(), window.len()), (2, 0));
    }

    #[test]
    fn after_a_refusal_nothing_is_sent_before_all_is_answered_and_the_pause_is_over() {
        let mut window = window(0, &[1, 2]);
        while window.send(Time(0)).is_some() {}

        window.refuse(1, Time(50));
        assert_eq!((window.send(Time(60)), window.deadline()), (None, None));
        window.refuse(2, Time(0));

        assert_eq!((window.send(Time(49)), window.deadline()), (None, Some(Time(50))));
        assert_eq!(window.send(Time(50)), Some(sending(1, 0)));
        assert_eq!(window.send(Time(50)), Some(sending(2, 1)));
    }

    #[test]
    fn reopening_finishes_what_the_broker_has_and_sends_the_rest_again() {
        let mut window = window(0, &[1, 2, 3]);
        while window.send(Time(0)).is_some() {}

        assert_eq!(window.reopen(1).len(), 1);

        assert_eq!(window.send(Time(0)), Some(sending(2, 1)));
        assert_eq!(window.send(Time(0)), Some(sending(3, 2)));
    }

    #[test]
    fn claim_without_rows_leaves_the_chain() {
        let mut window = window(0, &[1, 2]);

        window.rewrite(1, &[]);

        assert_eq!(window.send(Time(0)), Some(sending(2, 0)));
    }

    fn window(last: u64, sequences: &[u64]) -> Window {
        let mut window = Window::new(last);
        for sequence in sequences {
            window.push(Flight { sequence: *sequence, rows: vec![RowId(*sequence)], bytes: 1 });
        }
        window
    }

    const fn sending(sequence: u64, prev: u64) -> Sending {
        Sending { sequence, prev }
    }
}
