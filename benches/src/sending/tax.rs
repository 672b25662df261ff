//! What an enqueue costs: the same business transaction without one, with one, and with a bare insert
//! of the same row, in turn; on PostgreSQL also over connections that are known to be direct.

use std::time::Duration;

use super::business::{Business, OnMariadb, OnPostgres, OnSqlite, Send};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::report;

/// Clients at the same time.
const CLIENTS: [u64; 3] = [1, 4, 16];
/// What is compared.
const KINDS: [Send; 5] = [Send::Nothing, Send::Bare, Send::Message, Send::Directly, Send::Closure];

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    report::line("tax of an enqueue on a business transaction (one update, one insert), synced");
    report::line("                                   tax of a  tax of an               in a");
    report::line("database  clients   tx/s without  bare insert  enqueue  directly  closure");
    for database in &options.databases {
        let servers = Servers::start(*database, dir.path())?;
        match database {
            Database::Sqlite => {
                let business = OnSqlite::set_up(servers.sqlite().await?).await?;
                measure(options, *database, &business).await?;
            }
            Database::Postgres => {
                let business = OnPostgres::set_up(servers.postgres().await?).await?;
                measure(options, *database, &business).await?;
            }
            Database::Mariadb => {
                let business = OnMariadb::set_up(servers.mariadb().await?).await?;
                measure(options, *database, &business).await?;
            }
        }
        report::line(probe::typical(&[probe.read()?]));
    }
    Ok(())
}

async fn measure(
    options: &Options,
    database: Database,
    business: &impl Business,
) -> Result<(), Failed> {
    let (slice, rounds) = if options.common.smoke {
        (Duration::from_millis(50), 1)
    } else {
        (Duration::from_secs_f64(options.slice), options.rounds)
    };
    for clients in CLIENTS {
        let mut figures = Vec::new();
        for round in 0..rounds {
            let mut rates = [0.0; KINDS.len()];
            // Who goes first changes, so that a drift of the machine favours nobody.
            for turn in 0..KINDS.len() {
                let kind = (round + turn) % KINDS.len();
                if let (Some(send), Some(rate)) = (KINDS.get(kind), rates.get_mut(kind)) {
                    *rate = business.rate(clients, slice, *send).await?;
                }
                business.clear().await?;
            }
            figures.push(rates);
        }
        let without = report::median(figures.iter().map(|rates| rates[0]));
        let taxes = (1..KINDS.len()).map(|kind| {
            let tax = |rates: &[f64; KINDS.len()]| {
                rates.get(kind).map_or(0.0, |rate| 1.0 - rate / rates[0])
            };
            format!("{:>9.1} %", report::median(figures.iter().map(tax)) * 100.0)
        });
        let taxes: String = taxes.collect();
        report::line(format_args!("{database:<10}{clients:>7}{without:>15.0}{taxes}"));
    }
    Ok(())
}
