//! Servers that run already and are given by address, with what the comparison may rely on.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::{Args, ValueEnum};

use crate::peers::{Durability, Kind};

/// Peers that are not started here.
#[derive(Args, Debug)]
pub(super) struct Given {
    /// An Apache Iggy server and what it promises: synced=HOST:PORT, written=HOST:PORT, or both.
    ///
    /// What it promises is set for the whole server, when it is started:
    /// `IGGY_SYSTEM_PARTITION_MESSAGES_REQUIRED_TO_SAVE=1` for both, and for synced
    /// `IGGY_SYSTEM_PARTITION_ENFORCE_FSYNC=true`, too. The column of flushes shows whether it does.
    /// `IGGY_USERNAME` and `IGGY_PASSWORD` say who logs in; without them `iggy` does.
    #[arg(
        long,
        value_name = "PROMISE=HOST:PORT",
        value_delimiter = ',',
        value_parser = promise,
        verbatim_doc_comment
    )]
    iggy: Vec<(Durability, SocketAddr)>,
    /// A Kafka broker, which is alone. Its topics are made with what they promise.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    kafka: Option<SocketAddr>,
}

impl Given {
    /// Those that can promise this much.
    pub(super) fn at(&self, durability: Durability) -> Vec<(Kind, SocketAddr)> {
        let iggy = self.iggy.iter().filter(|(promised, _)| *promised == durability);
        let iggy = iggy.map(|(_, address)| (Kind::Iggy, *address)).take(1);
        iggy.chain(self.kafka.map(|address| (Kind::Kafka, address))).collect()
    }
}

fn promise(text: &str) -> Result<(Durability, SocketAddr), String> {
    let (durability, rest) = text.split_once('=').ok_or("synced=HOST:PORT or written=HOST:PORT")?;
    Ok((Durability::from_str(durability, false)?, address(rest)?))
}

/// The first address, one of the older kind before others: so most servers listen.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "no address".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Given;
    use crate::peers::{Durability, Kind};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        given: Given,
    }

    #[test]
    fn iggy_takes_part_where_it_promises_enough_and_kafka_everywhere() {
        let words = ["compare", "--iggy", "written=127.0.0.1:8091", "--kafka", "127.0.0.1:9092"];
        let given = Cli::try_parse_from(words).unwrap().given;
        let kafka = (Kind::Kafka, "127.0.0.1:9092".parse().unwrap());
        let iggy = (Kind::Iggy, "127.0.0.1:8091".parse().unwrap());
        assert_eq!(given.at(Durability::Synced), [kafka]);
        assert_eq!(given.at(Durability::Written), [iggy, kafka]);
    }

    #[test]
    fn an_address_without_a_promise_is_refused() {
        for text in ["127.0.0.1:8090", "fast=127.0.0.1:8090", "synced=127.0.0.1"] {
            assert!(Cli::try_parse_from(["compare", "--iggy", text]).is_err(), "{text}");
        }
    }
}
