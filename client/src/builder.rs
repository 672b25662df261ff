//! Configuring and connecting a client.

use crate::client::Client;
use crate::connector::{self, Connector};
use crate::core::Core;
use crate::driver::Driver;
use crate::error::ConnectError;
use crate::mailbox::Mailbox;
use crate::options::Options;
use std::sync::Arc;
use std::time::Duration;

/// What a client is told before it connects.
#[derive(Debug, Default)]
pub struct ClientBuilder {
    options: Options,
    servers: Vec<Server>,
}

#[derive(Debug)]
enum Server {
    Address(String),
    Connector(Box<dyn Connector>),
}

impl ClientBuilder {
    /// Adds a broker's address, `HOST:PORT` or `unix:PATH`. With several, the client goes on to
    /// the next one when it cannot connect. Without any it is `127.0.0.1:7400`.
    #[must_use]
    pub fn server(mut self, address: impl Into<String>) -> Self {
        self.servers.push(Server::Address(address.into()));
        self
    }

    /// Adds a broker that is reached in another way, an in-process one for example.
    #[must_use]
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.servers.push(Server::Connector(Box::new(connector)));
        self
    }

    /// The name that the broker's logs show for this client.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// How long [`Self::connect`] tries; 10 s unless set. Later reconnects go on for ever.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long a request may take, reconnecting included; 30 s unless set.
    #[must_use]
    pub const fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.options.operation_timeout = timeout;
        self
    }

    /// How long a message may wait for its receipt, reconnecting and retries included; 30 s unless
    /// set. Each publisher can be told otherwise.
    #[must_use]
    pub const fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.options.publish_timeout = timeout;
        self
    }

    /// Connects, trying until it works or the connect timeout has passed.
    ///
    /// Must be called inside a tokio runtime with time and IO enabled; the client's one task is
    /// spawned there. Dropping the future gives up.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: a wrong address, no broker reached in time, or a broker that refuses.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let connectors = connectors(self.servers)?;
        let mailbox = Arc::new(Mailbox::default());
        let driver = Driver::new(self.options.clone(), connectors, Arc::clone(&mailbox));
        let limits = driver.limits();
        let driver = driver.connect_first().await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the client's only task; `Client::close` awaits it"
        )]
        let driver = tokio::task::spawn(driver);
        Ok(Client::new(Arc::new(Core::new(mailbox, self.options, limits, driver))))
    }
}

fn connectors(servers: Vec<Server>) -> Result<Vec<Box<dyn Connector>>, ConnectError> {
    let servers =
        if servers.is_empty() { vec![Server::Address("127.0.0.1:7400".into())] } else { servers };
    let connector = |server| match server {
        Server::Connector(connector) => Ok(connector),
        Server::Address(text) => {
            connector::for_address(&text).ok_or(ConnectError::Address { text })
        }
    };
    servers.into_iter().map(connector).collect()
}
