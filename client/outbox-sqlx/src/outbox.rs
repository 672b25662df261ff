//! The outbox of each kind of database. One text for all, and concrete types in what it makes: a
//! closure over a transaction whose type is a parameter cannot be sent to another thread.

/// Makes the public outbox of a kind of database.
macro_rules! outbox {
    ($driver:ty, $db:ty, $pool:ty) => {
        /// An outbox: what is sent through it is a row in the application's own database, committed
        /// or rolled back with its data, and handed to the broker exactly once by a relay.
        ///
        /// Cheap to clone; the clones share the bell that wakes a relay in this process.
        #[derive(Clone, Debug)]
        pub struct Outbox {
            core: Core<$driver>,
        }

        impl Outbox {
            /// The outbox in the database of this pool. Connects to nothing yet.
            #[must_use]
            pub fn new(pool: $pool) -> Self {
                Self { core: Core::new(pool) }
            }

            /// Lets the tables' names start with this instead of `posthouse_`.
            ///
            /// # Errors
            ///
            /// [`Error::Prefix`] unless it is at most 32 lower-case letters, digits and underscores.
            pub fn prefix(self, prefix: &str) -> Result<Self, Error> {
                Ok(Self { core: self.core.prefix(prefix)? })
            }

            /// Makes the tables of outbox and inbox if they are not there, and brings those of an
            /// older version up to date, with what is in them; programs of the version before go on
            /// sending and receiving meanwhile, but their relays end. Any number of processes may do
            /// it at the same time. It changes nothing if there is nothing to do, newer tables
            /// included.
            ///
            /// # Errors
            ///
            /// [`Error::Database`]: missing rights, for example.
            pub async fn install(&self) -> Result<(), Error> {
                self.core.install().await
            }

            /// What [`Self::install`] runs where there are no tables, for those who keep their schema
            /// elsewhere.
            #[must_use]
            pub fn ddl(&self) -> String {
                self.upgrade(0)
            }

            /// What [`Self::install`] runs on tables of this version; nothing if they are up to date.
            #[must_use]
            pub fn upgrade(&self, from: u32) -> String {
                let statements = self.core.sql.upgrade(from);
                statements.iter().map(|statement| format!("{statement};\n")).collect()
            }

            /// Puts a message into the outbox as part of the caller's open transaction: it is sent
            /// if that commits.
            ///
            /// One insert. It never retries, commits or sets savepoints. Lock what the message's key
            /// stands for before (an `UPDATE` or `SELECT .. FOR UPDATE` of it does), and messages of
            /// one key are sent in the order of their transactions; [`Self::enqueue_ordered`] locks
            /// the key itself.
            ///
            /// # Cancellation
            ///
            /// Dropped, the row may be in the transaction or not; roll it back.
            ///
            /// # Errors
            ///
            /// [`Error::Enqueue`] if no broker would take the message: nothing was inserted.
            /// [`Error::Database`]: roll the transaction back.
            pub async fn enqueue(
                &self,
                tx: &mut Transaction<'_, $db>,
                outgoing: Outgoing,
            ) -> Result<Bell, Error> {
                self.core.enqueue(tx, &[NewRow::new(outgoing)?]).await
            }

            /// Like [`Self::enqueue`], and keeps the order of the messages of one key whether or not
            /// anything else is locked: before the insert it waits for every other transaction that
            /// has enqueued a message of this key in this way, and others wait for this one.
            ///
            /// It waits as the database waits for locks: `lock_timeout` on PostgreSQL,
            /// `innodb_lock_wait_timeout` on MariaDB. Transactions that take several keys can wait for
            /// each other; the database ends one of them then. The tables must be up to date, see
            /// [`Self::install`]. On PostgreSQL the lock is an advisory one, and
            /// `posthouse_order_key` takes it in SQL; on MariaDB and MySQL it is a row of
            /// `posthouse_outbox_order`; on SQLite whoever writes is alone already.
            ///
            /// # Cancellation
            ///
            /// As [`Self::enqueue`].
            ///
            /// # Errors
            ///
            /// As [`Self::enqueue`]; [`EnqueueError::NoKey`](posthouse_client::outbox::EnqueueError)
            /// of a message without a key.
            pub async fn enqueue_ordered(
                &self,
                tx: &mut Transaction<'_, $db>,
                outgoing: Outgoing,
            ) -> Result<Bell, Error> {
                self.core.enqueue_ordered(tx, NewRow::new(outgoing)?).await
            }

            /// Like [`Self::enqueue`] for several messages, in their order, with few statements.
            ///
            /// # Errors
            ///
            /// As [`Self::enqueue`]; of messages that no broker would take, none is inserted.
            pub async fn enqueue_many(
                &self,
                tx: &mut Transaction<'_, $db>,
                outgoing: impl IntoIterator<Item = Outgoing>,
            ) -> Result<Bell, Error> {
                let rows = rows(outgoing)?;
                self.core.enqueue(tx, &rows).await
            }

            /// Does `work` in a transaction, enqueues the message behind it, commits, and wakes the
            /// relay. The broker need not be there.
            ///
            /// # Cancellation
            ///
            /// Dropped while `work` is at work, everything is rolled back. Dropped later, the
            /// transaction is committed or not, with the message.
            ///
            /// # Errors
            ///
            /// What `work` returns, or an [`Error`] made into one: everything is rolled back and
            /// nothing is sent. Only after [`Error::CommitUnknown`] both may be there, or neither.
            pub async fn send_with_transaction<T, E, F>(
                &self,
                outgoing: Outgoing,
                work: F,
            ) -> Result<T, E>
            where
                F: AsyncFnOnce(&mut Transaction<'_, $db>) -> Result<T, E>,
                E: From<Error>,
            {
                let row = NewRow::new(outgoing).map_err(Error::from)?;
                let mut tx = self.core.begin().await?;
                let done = match work(&mut tx).await {
                    Ok(done) => done,
                    Err(error) => {
                        roll_back::<$driver>(tx).await;
                        return Err(error);
                    }
                };
                self.core.finish(tx, vec![row]).await?;
                Ok(done)
            }

            /// Does `work` in a transaction together with what it sends, commits, and wakes the
            /// relay. Messages can be made from what the work found out, ids for example.
            ///
            /// # Cancellation
            ///
            /// As [`Self::send_with_transaction`].
            ///
            /// # Errors
            ///
            /// As [`Self::send_with_transaction`].
            pub async fn transaction<T, E, F>(&self, work: F) -> Result<T, E>
            where
                F: AsyncFnOnce(&mut Transaction<'_, $db>, &mut Sends) -> Result<T, E>,
                E: From<Error>,
            {
                let mut tx = self.core.begin().await?;
                let mut sends = Sends::default();
                let done = match work(&mut tx, &mut sends).await {
                    Ok(done) => done,
                    Err(error) => {
                        roll_back::<$driver>(tx).await;
                        return Err(error);
                    }
                };
                let rows = match rows(sends.outgoing) {
                    Ok(rows) => rows,
                    Err(error) => {
                        roll_back::<$driver>(tx).await;
                        return Err(Error::from(error).into());
                    }
                };
                self.core.finish(tx, rows).await?;
                Ok(done)
            }

            /// A relay that hands the rows over to the broker of `client`, over a database connection
            /// of its own; [`Relay::spawn`] starts it.
            ///
            /// Any number of processes may run one: one of them works, the others stand by.
            pub fn relay(&self, client: &Client) -> Relay<impl Store + use<>> {
                Relay::new(self.core.tables(), client.clone()).bell(Arc::clone(&self.core.bell))
            }

            /// The tables as a relay sees them, over a connection of its own.
            #[must_use]
            pub fn store(&self) -> impl Store + use<> {
                self.core.tables()
            }

            /// How much waits, and how much is parked. Opens a connection for it.
            ///
            /// # Errors
            ///
            /// [`Error::Tables`].
            pub async fn lag(&self) -> Result<Lag, Error> {
                Ok(self.core.tables().lag().await?)
            }

            /// Parked rows above the id `after`, oldest first, at most `limit`, without their bodies:
            /// messages that the broker refused for good, with what it said.
            ///
            /// # Errors
            ///
            /// [`Error::Tables`].
            pub async fn parked(&self, after: RowId, limit: u32) -> Result<Vec<Parked>, Error> {
                Ok(self.core.tables().parked(after, limit).await?)
            }

            /// Puts parked rows back at the end of the outbox and wakes the relay; returns how many.
            /// They keep their message ids, unless those are not 16 bytes long.
            ///
            /// # Errors
            ///
            /// [`Error::Tables`].
            pub async fn redrive(&self, ids: &[RowId]) -> Result<u64, Error> {
                let count = self.core.tables().redrive(ids).await?;
                self.core.bell().ring();
                Ok(count)
            }

            /// Deletes parked rows; returns how many.
            ///
            /// # Errors
            ///
            /// [`Error::Tables`].
            pub async fn discard(&self, ids: &[RowId]) -> Result<u64, Error> {
                Ok(self.core.tables().discard(ids).await?)
            }
        }
    };
}
pub(crate) use outbox;
