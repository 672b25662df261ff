//! What an enqueue costs: the same business transaction with and without, in turn.

use std::time::Duration;

use super::business::{Business, OnMariadb, OnPostgres, OnSqlite};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::report;

/// Clients at the same time.
const CLIENTS: [u64; 3] = [1, 4, 16];

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    report::line("tax of an enqueue on a business transaction (one update, one insert), synced");
    report::line("database  clients   tx/s without  tx/s with   tax");
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
        let mut pairs = Vec::new();
        for round in 0..rounds {
            // Who goes first changes, so that a drift of the machine favours neither.
            let first = business.rate(clients, slice, round % 2 == 0).await?;
            let second = business.rate(clients, slice, round % 2 != 0).await?;
            let (with, without) = if round % 2 == 0 { (first, second) } else { (second, first) };
            pairs.push((without, with));
            business.clear().await?;
        }
        let middle = |figure: fn(&(f64, f64)) -> f64| report::median(pairs.iter().map(figure));
        let tax = middle(|(without, with)| 1.0 - with / without) * 100.0;
        let (without, with) = (middle(|pair| pair.0), middle(|pair| pair.1));
        report::line(format_args!(
            "{database:<10}{clients:>7}{without:>15.0}{with:>11.0}{tax:>5.1} %"
        ));
    }
    Ok(())
}
