//! A file that others change. Contents are compared, not times: Kubernetes swaps a symbolic link, and
//! copies keep old times.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Occasion;

/// Looks at a file again and again.
#[derive(Debug)]
pub(super) struct Watch {
    file: PathBuf,
    /// What the last look saw.
    last: Option<Look>,
    /// What was there when the watch last said that there is something new.
    told: Option<Look>,
    /// When it last ended.
    at: Instant,
}

/// What is in the file, or why it cannot be read.
type Look = Result<Vec<u8>, io::ErrorKind>;

/// A file that is being written is taken when two looks saw the same, so a change is in force within
/// three of these.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often something refused is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The bytes that are compared. No config is as large.
const COMPARED: u64 = 2 << 20;

impl Watch {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, last: None, told: None, at: Instant::now() }
    }

    /// Ends when the file is another one than the last time, the first time at once, or when something
    /// was refused and it is time to try it again. Cancel safe.
    pub(super) async fn next(&mut self, is_refused: bool) -> Occasion {
        loop {
            sleep(INTERVAL).await;
            let file = self.file.clone();
            // A disk that hangs holds up this look, one thread, and nothing else.
            let Ok(look) = tokio::task::spawn_blocking(move || look(&file)).await else { continue };
            let has_settled = self.last.as_ref() == Some(&look);
            self.last = Some(look);
            if !has_settled {
                continue;
            }
            let occasion = if self.told != self.last {
                Occasion::Changed
            } else if is_refused && self.at.elapsed() >= RETRY {
                Occasion::Again
            } else {
                continue;
            };
            self.told.clone_from(&self.last);
            self.at = Instant::now();
            return occasion;
        }
    }
}

fn look(file: &Path) -> Look {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(COMPARED).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| error.kind())
}
