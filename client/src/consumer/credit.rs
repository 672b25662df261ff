//! How much a consumer may be sent, as totals since its last subscribing.
//!
//! Pure. Credit comes back when a delivery is settled, so what the application holds is bounded in
//! messages and bytes. After a reconnect the totals start anew, less what it still holds from before.

/// Settlements without a confirmation beyond which no more credit comes back for others, so that
/// a broker that delivers but does not confirm cannot make them pile up.
const UNCONFIRMED_MAX: u64 = 1 << 16;

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    pub(crate) const fn one(bytes: u64) -> Self {
        Self { messages: 1, bytes }
    }

    const fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What the broker is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) granted: Amount,
    pub(crate) taken: u64,
}

/// The account of one consumer.
#[derive(Debug)]
pub(crate) struct Credit {
    window: Amount,
    /// Held from before the last subscribing.
    carried: Amount,
    /// Taken by the application since, and not settled.
    held: Amount,
    settled: Amount,
    confirmed_messages: u64,
    taken: u64,
    told: Totals,
    is_frozen: bool,
}

impl Credit {
    pub(crate) fn new(window: Amount) -> Self {
        Self {
            window,
            carried: Amount::default(),
            held: Amount::default(),
            settled: Amount::default(),
            confirmed_messages: 0,
            taken: 0,
            told: Totals::default(),
            is_frozen: false,
        }
    }

    /// The application has taken the next delivery, in the order in which they were sent.
    pub(crate) const fn take(&mut self, bytes: u64) {
        self.taken += 1;
        self.held = self.held.plus(Amount::one(bytes));
    }

    /// A delivery of this subscribing was settled, by the application or for it.
    pub(crate) const fn settle(&mut self, bytes: u64) {
        let one = Amount::one(bytes);
        self.held = self.held.minus(one);
        self.settled = self.settled.plus(one);
    }

    /// A delivery from before this subscribing was settled.
    pub(crate) const fn settle_carried(&mut self, bytes: u64) {
        self.carried = self.carried.minus(Amount::one(bytes));
    }

    /// The broker has confirmed so many settlements of this subscribing.
    pub(crate) fn confirm(&mut self, messages: u64) {
        self.confirmed_messages = (self.confirmed_messages + messages).min(self.settled.messages);
    }

    /// How many deliveries the application holds.
    pub(crate) const fn held_messages(&self) -> u64 {
        self.held.messages + self.carried.messages
    }

    /// No more is granted.
    pub(crate) const fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// The totals start anew.
    pub(crate) const fn begin_again(&mut self) {
        self.carried = self.carried.plus(self.held);
        self.held = Amount { messages: 0, bytes: 0 };
        self.settled = Amount { messages: 0, bytes: 0 };
        self.confirmed_messages = 0;
        self.taken = 0;
        self.told = Totals { granted: Amount { messages: 0, bytes: 0 }, taken: 0 };
    }

    /// What the broker does not know yet.
    pub(crate) fn tell(&mut self) -> Option<Totals> {
        let totals = Totals { granted: self.granted(), taken: self.taken };
        if totals == self.told {
            return None;
        }
        self.told = totals;
        Some(totals)
    }

    fn granted(&self) -> Amount {
        if self.is_frozen {
            return self.told.granted;
        }
        let mut back = self.settled;
        back.messages = back.messages.min(self.confirmed_messages + UNCONFIRMED_MAX);
        let granted = self.window.plus(back).minus(self.carried);
        // A total never falls: what was granted may have been used.
        Amount {
            messages: granted.messages.max(self.told.granted.messages),
            bytes: granted.bytes.max(self.told.granted.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_the_window_plus_what_was_settled() {
        let mut credit = Credit::new(amount(10, 1000));
        credit.take(7);
        credit.take(5);
        credit.settle(5);

        assert_eq!(credit.tell(), Some(Totals { granted: amount(11, 1005), taken: 2 }));
        assert_eq!(credit.held_messages(), 1);
    }

    #[test]
    fn taking_alone_grants_nothing_and_is_told() {
        let mut credit = Credit::new(amount(10, 1000));
        credit.tell();
        credit.take(7);

        assert_eq!(credit.tell(), Some(Totals { granted: amount(10, 1000), taken: 1 }));
        assert_eq!(credit.tell(), None);
    }

    #[test]
    fn fresh_credit_after_a_reconnect_is_less_what_is_still_held() {
        let mut credit = Credit::new(amount(10, 1000));
        credit.take(7);
        credit.take(5);
        credit.begin_again();

        assert_eq!(credit.tell(), Some(Totals { granted: amount(8, 988), taken: 0 }));
        credit.settle_carried(7);
        assert_eq!(credit.tell(), Some(Totals { granted: amount(9, 995), taken: 0 }));
    }

    #[test]
    fn unconfirmed_settlements_stop_the_credit() {
        let mut credit = Credit::new(amount(10, 1000));
        for _ in 0..UNCONFIRMED_MAX + 5 {
            credit.take(0);
            credit.settle(0);
        }
        let granted = |credit: &mut Credit| credit.tell().unwrap().granted.messages;

        assert_eq!(granted(&mut credit), 10 + UNCONFIRMED_MAX);
        credit.confirm(3);
        assert_eq!(granted(&mut credit), 13 + UNCONFIRMED_MAX);
    }

    #[test]
    fn frozen_credit_stays_and_takes_are_still_told() {
        let mut credit = Credit::new(amount(10, 1000));
        credit.tell();
        credit.freeze();
        credit.take(7);
        credit.settle(7);

        assert_eq!(credit.tell(), Some(Totals { granted: amount(10, 1000), taken: 1 }));
    }

    const fn amount(messages: u64, bytes: u64) -> Amount {
        Amount { messages, bytes }
    }
}
