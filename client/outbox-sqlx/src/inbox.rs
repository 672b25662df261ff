//! The inbox of each kind of database. One text for all, as for the outbox.

/// Makes the public inbox of a kind of database.
macro_rules! inbox {
    ($driver:ty, $db:ty, $pool:ty) => {
        /// An inbox: the effect of a message is committed together with a row that says so, and a
        /// message whose row is there is acknowledged without being handled again.
        ///
        /// One name for each consumer that has effects of its own in this database. Effects
        /// elsewhere (mail, other systems) are not covered: send them through an [`Outbox`] in the
        /// same transaction.
        #[derive(Clone, Debug)]
        pub struct Inbox {
            desk: Desk<$driver>,
        }

        /// What a delivery is to an inbox, see [`Inbox::begin`].
        #[derive(Debug)]
        pub enum Begun {
            /// Handle the message in this transaction, and give it to [`Inbox::commit`].
            New(Transaction<'static, $db>),
            /// The message was handled before: ack it.
            Duplicate,
            /// The message was handled under a later hand-out, or so long ago that it is forgotten:
            /// ack it, which the broker will not count if it is still to be delivered.
            Stale,
        }

        impl Inbox {
            /// The inbox of `consumer` in the database of this pool. On MariaDB a name has at most 200
            /// characters.
            #[must_use]
            pub fn new(pool: $pool, consumer: impl Into<String>) -> Self {
                Self { desk: Desk::new(pool, consumer.into()) }
            }

            /// Lets the tables' names start with this instead of `posthouse_`.
            ///
            /// # Errors
            ///
            /// [`Error::Prefix`] unless it is at most 32 lower-case letters, digits and underscores.
            pub fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
                let core = Core::<$driver>::new(self.desk.pool.clone()).prefix(prefix)?;
                self.desk.sql = core.sql;
                Ok(self)
            }

            /// Keeps a message's row for so long at least, 7 days unless set: a second copy that its
            /// sender makes within this time has no second effect.
            #[must_use]
            pub const fn window(mut self, window: Duration) -> Self {
                self.desk.window = window;
                self
            }

            /// Wakes this outbox' relay after each message, for handlers that enqueue.
            #[must_use]
            pub fn wakes(mut self, outbox: &Outbox) -> Self {
                self.desk.wakes = Some(outbox.core.bell());
                self
            }

            /// Makes the tables, as [`Outbox::install`] does.
            ///
            /// # Errors
            ///
            /// [`Error::Database`]: missing rights, for example.
            pub async fn install(&self) -> Result<(), Error> {
                let mut core = Core::<$driver>::new(self.desk.pool.clone());
                core.sql = Arc::clone(&self.desk.sql);
                core.install().await
            }

            /// Handles deliveries, `concurrency` at a time: begins a transaction, notes the message
            /// in it, calls `handler`, commits, and acks. A message that was handled before is acked
            /// only. [`Run::until`] starts it.
            ///
            /// An `Err` of the handler rolls back, and a panic too; what it means for the message
            /// says [`Failure`]. When the database cannot be reached, or somebody else is handling
            /// the same message for more than five seconds, it is given back uncounted. A commit
            /// that the database refuses over what the handler did, a deferred constraint for
            /// example, counts as the handler's failure.
            ///
            /// The handler is an async closure over an open transaction, of which a clone is called
            /// for each delivery: closures that hold references, `Arc`s and the like can be cloned.
            /// The handlers take turns in the task that awaits the run: they should wait for the
            /// database rather than compute. Each holds a connection of the pool, and while messages wait
            /// keeps it from one to the next for up to 100 ms.
            ///
            /// Rows that are not needed any more are deleted about hourly, see
            /// [`Self::collect_garbage`].
            pub fn run<H, E>(&self, consumer: Consumer, concurrency: usize, handler: H) -> Run<H>
            where
                H: AsyncFnOnce(&mut Transaction<'_, $db>, &Delivery) -> Result<(), E> + Clone,
                E: Into<Failure>,
            {
                Run { desk: self.desk.clone(), consumer, concurrency, handler }
            }

            /// Begins a transaction for a delivery and notes in it that the message is handled.
            ///
            /// # Cancellation
            ///
            /// Safe: dropped, the transaction is rolled back.
            ///
            /// # Errors
            ///
            /// [`Error::Database`]. If somebody else handles the same message it comes after five
            /// seconds; release the delivery then.
            pub async fn begin(&self, delivery: &Delivery) -> Result<Begun, Error> {
                self.desk.check_name()?;
                Ok(match self.desk.admit(delivery, None).await? {
                    Admitted::New(tx) => Begun::New(tx),
                    Admitted::Duplicate => Begun::Duplicate,
                    Admitted::Stale => Begun::Stale,
                })
            }

            /// Commits a transaction of [`Self::begin`] and acks the delivery.
            ///
            /// # Cancellation
            ///
            /// Dropped, it goes on.
            ///
            /// # Errors
            ///
            /// [`Error`]: the delivery was given back, counted if the database refuses this commit
            /// for good. After [`Error::CommitUnknown`] the message
            /// comes again, and the inbox knows whether it was handled.
            pub async fn commit(
                &self,
                tx: Transaction<'static, $db>,
                delivery: Delivery,
            ) -> Result<(), Error> {
                self.desk.conclude(tx, delivery).await.map(drop)
            }

            /// Reads a topic in batches, each handled in one transaction that also moves the cursor
            /// which this database keeps for it. So every record takes effect once, whatever
            /// crashes.
            ///
            /// Reading starts at the database's cursor; if there is none yet, where the reader
            /// stands. The broker's own cursor, of a reader opened at
            /// [`Position::Saved`](posthouse_client::Position), is saved after the commit, for the
            /// sake of the topic's retention only. A reader that
            /// [follows](posthouse_client::OpenReader::follow) makes this run for ever; else it
            /// returns at the end of the topic. A lost broker is waited for. A record that arrives
            /// damaged is logged as an error and passed over.
            ///
            /// # Cancellation
            ///
            /// Dropped, the batch at work is rolled back, or committed; run again, on this inbox or a
            /// clone of it, it waits for that, up to 5 s, and goes on where the database's cursor is.
            ///
            /// # Errors
            ///
            /// What `handler` returns, or an [`Error`] made into one; that batch is rolled back.
            /// Among them are [`Error::Overtaken`], and [`Error::Reader`] with
            /// [`BeyondEnd`](posthouse_client::ReadError::BeyondEnd) if the broker has less than this
            /// database has read: it was restored from an older copy.
            pub async fn run_stream<H, E>(&self, mut reader: Reader, handler: H) -> Result<(), E>
            where
                H: AsyncFnOnce(&mut Transaction<'_, $db>, &[Record]) -> Result<(), E> + Clone,
                E: From<Error>,
            {
                let source = reader.topic().to_owned();
                let mut cursor = self.desk.cursor(&source).await?;
                if let Some(next) = cursor {
                    reader.seek(next);
                }
                let mut saves = true;
                while let Some(batch) = next_batch(&mut reader).await.map_err(Error::Reader)? {
                    let mut tx = self.desk.advance(&source, cursor, batch.next).await?;
                    if let Err(error) = handler.clone()(&mut tx, &batch.records).await {
                        roll_back::<$driver>(tx).await;
                        return Err(error);
                    }
                    self.desk.arrive(tx).await?;
                    cursor = Some(batch.next);
                    saves = saves && save_at_broker(&reader, batch.next).await;
                }
                Ok(())
            }

            /// Deletes the rows of messages that can come no more: those below the ack floor that an
            /// earlier round stored, and older than the window. Returns how many. Another round
            /// within a minute does nothing.
            ///
            /// The floor is that of the deliveries which this inbox, or a clone of it, has handled.
            ///
            /// # Cancellation
            ///
            /// Dropped, the source at work is finished.
            ///
            /// # Errors
            ///
            /// [`Error::Database`]; what was deleted until then stays deleted.
            pub async fn collect_garbage(&self) -> Result<u64, Error> {
                self.desk.collect().await
            }
        }

        /// A consumer, its inbox and its handler; see [`Inbox::run`].
        #[must_use = "it runs when `until` is awaited"]
        pub struct Run<H> {
            desk: Desk<$driver>,
            consumer: Consumer,
            concurrency: usize,
            handler: H,
        }

        impl<H> fmt::Debug for Run<H> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Run")
                    .field("consumer", &self.consumer)
                    .field("concurrency", &self.concurrency)
                    .finish_non_exhaustive()
            }
        }

        impl<H, E> Run<H>
        where
            H: AsyncFnOnce(&mut Transaction<'_, $db>, &Delivery) -> Result<(), E> + Clone,
            E: Into<Failure>,
        {
            /// Runs until `shutdown` is done, the client is closed, or the broker ends the consumer.
            /// Takes nothing more then, lets the handlers at work finish, and gives the rest back
            /// uncounted. [`std::future::pending`] is a shutdown that never comes.
            ///
            /// # Cancellation
            ///
            /// Dropped, handlers at work are rolled back and their messages nacked; a commit under
            /// way goes on.
            ///
            /// # Errors
            ///
            /// [`Error::Consumer`]; [`Error::Database`] that trying again does not help with, for
            /// example that the tables are missing; [`Error::Tables`] if the name is too long.
            pub async fn until(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
                let Self { desk, consumer, concurrency, handler } = self;
                desk.check_name()?;
                let (stop, stopped) = watch::channel(false);
                let consumer = Mutex::new(consumer);
                let work = |_| Box::pin(take(&desk, &consumer, handler.clone(), stopped.clone()));
                let workers = (0..concurrency.max(1)).map(work).collect();
                crew::work(workers, stop, shutdown).await
            }
        }

        /// Takes deliveries and handles them, one at a time.
        async fn take<H, E>(
            desk: &Desk<$driver>,
            consumer: &Mutex<Consumer>,
            handler: H,
            mut stopped: watch::Receiver<bool>,
        ) -> Result<(), Error>
        where
            H: AsyncFnOnce(&mut Transaction<'_, $db>, &Delivery) -> Result<(), E> + Clone,
            E: Into<Failure>,
        {
            let mut seat = Seat::new();
            loop {
                let next = async { consumer.lock().await.next().await };
                let taken = tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                    taken = seat.wait(next) => taken,
                };
                match taken {
                    None => return Ok(()),
                    Some(Ok(delivery)) => handle(desk, &mut seat, handler.clone(), delivery).await?,
                    Some(Err(error)) if error.is_final() => return Err(Error::Consumer(error)),
                    Some(Err(error)) => tracing::warn!(%error, "message not handled"),
                }
            }
        }

        async fn handle<H, E>(
            desk: &Desk<$driver>,
            seat: &mut Seat<$driver>,
            handler: H,
            delivery: Delivery,
        ) -> Result<(), Error>
        where
            H: AsyncFnOnce(&mut Transaction<'_, $db>, &Delivery) -> Result<(), E> + Clone,
            E: Into<Failure>,
        {
            let mut tx = match desk.admit(&delivery, seat.take()).await {
                Ok(Admitted::New(tx)) => tx,
                Ok(Admitted::Duplicate | Admitted::Stale) => {
                    drop(delivery.ack());
                    return Ok(());
                }
                Err(error) => return desk.give_back(Some(delivery), error).await,
            };
            match crew::caught(handler(&mut tx, &delivery)).await {
                Ok(Ok(())) => match desk.conclude(tx, delivery).await {
                    Ok(begun) => seat.keep(begun),
                    Err(error) => desk.go_on(error).await?,
                },
                Ok(Err(error)) => desk.refuse(tx, delivery, error.into()).await,
                Err(_panic) => {
                    let failure = Failure::nack(Retry::Backoff, "panicked");
                    desk.refuse(tx, delivery, failure).await;
                }
            }
            desk.collect_if_due(seat).await;
            Ok(())
        }
    };
}
pub(crate) use inbox;
