//! How bytes reach a broker: TCP, a Unix socket, or anything that implements [`Connector`].

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A connected pipe of bytes. Implemented by everything that can be one.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// What [`Connector::connect`] returns.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Pipe>>> + Send + 'a>>;

/// Makes connections to one broker.
///
/// An in-process broker implements it over [`tokio::io::duplex`]:
///
/// ```
/// use posthouse_client::{Connecting, Connector, Pipe};
///
/// #[derive(Debug)]
/// struct InProcess {
///     accepted: tokio::sync::mpsc::Sender<tokio::io::DuplexStream>,
/// }
///
/// impl Connector for InProcess {
///     fn connect(&self) -> Connecting<'_> {
///         Box::pin(async {
///             let (near, far) = tokio::io::duplex(64 << 10);
///             let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
///             self.accepted.send(far).await.map_err(gone)?;
///             Ok(Box::new(near) as Box<dyn Pipe>)
///         })
///     }
/// }
/// ```
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Makes one connection. Dropping the future gives the attempt up.
    ///
    /// The client calls it again, after a pause that grows, whenever a connection is lost.
    fn connect(&self) -> Connecting<'_>;

    /// Names the broker, for logs and errors.
    fn server(&self) -> String {
        format!("{self:?}")
    }
}

/// `HOST:PORT` over TCP.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    address: String,
}

/// `unix:PATH`.
#[derive(Clone, Debug)]
pub(crate) struct Unix {
    path: PathBuf,
}

/// The connector for an address; `None` if it is neither `HOST:PORT` nor `unix:PATH`.
pub(crate) fn for_address(address: &str) -> Option<Box<dyn Connector>> {
    if let Some(path) = address.strip_prefix("unix:") {
        let unix = Unix { path: path.into() };
        return if path.is_empty() { None } else { Some(Box::new(unix)) };
    }
    let (host, port) = address.rsplit_once(':')?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return None;
    }
    Some(Box::new(Tcp { address: address.to_owned() }))
}

impl Connector for Tcp {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = TcpStream::connect(&self.address).await?;
            // Whole frames are written at once, so waiting for more would only cost time.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Pipe>)
        })
    }

    fn server(&self) -> String {
        self.address.clone()
    }
}

impl Connector for Unix {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.path).await?;
            Ok(Box::new(stream) as Box<dyn Pipe>)
        })
    }

    fn server(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_or_a_unix_path() {
        let server = |address| for_address(address).map(|connector| connector.server());

        assert_eq!(server("127.0.0.1:7400").as_deref(), Some("127.0.0.1:7400"));
        assert_eq!(server("[::1]:7400").as_deref(), Some("[::1]:7400"));
        assert_eq!(server("unix:/run/p.sock").as_deref(), Some("unix:/run/p.sock"));
        assert_eq!(server("localhost"), None);
        assert_eq!(server(":7400"), None);
        assert_eq!(server("host:99999"), None);
        assert_eq!(server("unix:"), None);
    }
}
