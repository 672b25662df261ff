//! The directory of a server, the account that it runs as, and the process that cleans up after it.

use crate::error::{Error, during};
use crate::install::program;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Waits until its standard input ends, which it does with the test process at the latest; then ends
/// the server, whose number is in `server.pid`, and removes the directory.
const REAPER: &str = r#"
cat >/dev/null
if read -r pid <"$1/server.pid"; then
    kill -s "$2" "$pid"
    turn=0
    while [ -e "/proc/$pid/exe" ] && [ $turn -lt 50 ]; do turn=$((turn + 1)); sleep 0.1; done
    kill -s KILL "$pid"
fi
turn=0
until rm -rf -- "$1" || [ $turn -ge 50 ]; do turn=$((turn + 1)); sleep 0.1; done
"#;

/// A temporary directory that goes away whatever becomes of this process.
#[derive(Debug)]
pub(crate) struct Site {
    folder: PathBuf,
    reaper: Child,
}

impl Site {
    /// A new directory; `signal` ends its server at once.
    pub(crate) fn new(signal: &str) -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("posthouse-db-").tempdir();
        let folder = during("make a temporary directory", folder)?;
        // The server's account must be able to pass.
        let passable = std::fs::Permissions::from_mode(0o755);
        during("open the directory", std::fs::set_permissions(folder.path(), passable))?;
        let mut reaper = Command::new("sh");
        reaper.args(["-c", REAPER, "reaper"]).arg(folder.path()).arg(signal);
        // A group of its own: what ends the test from the keyboard must not end the reaper.
        reaper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let reaper = during("start a shell", reaper.spawn())?;
        Ok(Self { folder: folder.keep(), reaper })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a directory in it that belongs to `account`.
    pub(crate) fn folder(&self, name: &str, account: &Account) -> Result<PathBuf, Error> {
        let path = self.path(name);
        during("make a directory", std::fs::create_dir(&path))?;
        if let Some((user, group)) = account.ids {
            let owned = std::os::unix::fs::chown(&path, Some(user), Some(group));
            during("give a directory away", owned)?;
        }
        Ok(path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

/// The account of a server. Database servers refuse to run as root.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    name: &'static str,
    /// User and group, if this process must change into them.
    ids: Option<(u32, u32)>,
}

impl Account {
    /// The package's own account `name` if we are root, else ours.
    pub(crate) fn of(name: &'static str) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { name, ids: None });
        }
        let accounts = during("read the accounts", std::fs::read_to_string("/etc/passwd"))?;
        let found = accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (user, _) = (fields.next().filter(|user| *user == name)?, fields.next()?);
            debug_assert_eq!(user, name, "it is the line of this account");
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        match found {
            Some(ids) => Ok(Self { name, ids: Some(ids) }),
            None => Err(Error::new(format!("there is no account {name}; its package makes one"))),
        }
    }

    /// A command that runs `program` under this account, in the same process.
    pub(crate) fn command(&self, program: &Path) -> Result<Vec<String>, Error> {
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Error::new(format!("not UTF-8: {}", path.display())))
        };
        let mut words = Vec::new();
        if self.ids.is_some() {
            words.push(text(&crate::install::program("setpriv")?)?);
            words.extend(["--reuid", self.name, "--regid", self.name].map(str::to_owned));
            words.extend(["--init-groups", "--"].map(str::to_owned));
        }
        words.push(text(program)?);
        Ok(words)
    }

    /// Runs `name` to its end under this account and gives what it printed.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Result<String, Error> {
        let words = self.command(&program(name)?)?;
        let (first, rest) = words.split_first().ok_or_else(|| Error::new("an empty command"))?;
        let mut command = Command::new(first);
        command.args(rest).args(arguments).env("LC_ALL", "C").current_dir("/");
        let output = during(&format!("run {name}"), command.stdin(Stdio::null()).output())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Err(Error::new(format!("{name} {arguments:?} ended with {}: {out}{err}", output.status)))
    }
}

/// A copy of a stopped server's files.
#[derive(Debug)]
pub struct Backup {
    site: Site,
}

impl Backup {
    pub(crate) fn of(data: &Path) -> Result<Self, Error> {
        let site = Site::new("KILL")?;
        copy(data, &site.path("data"))?;
        Ok(Self { site })
    }

    /// Puts the copy where `data` is.
    pub(crate) fn write(&self, data: &Path) -> Result<(), Error> {
        if data.exists() {
            during("remove a server's files", std::fs::remove_dir_all(data))?;
        }
        copy(&self.site.path("data"), data)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    match during("copy a server's files", status)?.success() {
        true => Ok(()),
        false => Err(Error::new(format!("cannot copy {} to {}", from.display(), to.display()))),
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(log).and_then(|mut file| file.read_to_end(&mut text));
    if let Err(error) = read {
        return format!("(no log: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}
