//! Names of servers to addresses, so that a name server that is gone hangs nothing: one question at a time for each name,
//! on a thread of its own, and the last answer stays good while there is no other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;

/// How long an answer is taken without asking again.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long a question may take before the last answer is taken instead.
const PATIENCE: Duration = Duration::from_millis(300);

type Found = Result<Vec<SocketAddr>, String>;

#[derive(Default)]
struct Known {
    /// The last good answer and when it came.
    last: Option<(Instant, Vec<SocketAddr>)>,
    /// The question under way.
    asking: Option<watch::Receiver<Option<Found>>>,
}

/// Resolves names for the client.
#[derive(Clone, Default)]
pub(super) struct Resolver {
    /// Guards what is known of each name.
    known: Arc<Mutex<HashMap<String, Known>>>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let found = resolver.find(&host).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl Resolver {
    async fn find(&self, host: &str) -> Found {
        if host == "localhost" {
            // Clear text is allowed to it: no name server says where it is.
            let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            return Ok(both.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect());
        }
        let (mut asking, last) = {
            let mut all = self.known.lock();
            let known = all.entry(host.to_owned()).or_default();
            if let Some((when, addresses)) = &known.last
                && when.elapsed() < FRESH_FOR
            {
                return Ok(addresses.clone());
            }
            let last = known.last.as_ref().map(|(_, addresses)| addresses.clone());
            let asking = match &known.asking {
                Some(asking) => asking.clone(),
                None => known.asking.insert(self.ask(host)?).clone(),
            };
            (asking, last)
        };
        let answered = async {
            let answer = asking.wait_for(Option::is_some).await.map(|answer| answer.clone());
            answer.ok().flatten().unwrap_or_else(|| Err("the question was given up".to_owned()))
        };
        match last {
            None => answered.await,
            Some(last) => match tokio::time::timeout(PATIENCE, answered).await {
                Ok(Ok(addresses)) => Ok(addresses),
                _ => Ok(last),
            },
        }
    }

    /// Asks on a thread of its own, which may be kept for as long as the machine's resolver likes.
    fn ask(&self, host: &str) -> Result<watch::Receiver<Option<Found>>, String> {
        let (answer, asking) = watch::channel(None);
        let (known, host) = (Arc::clone(&self.known), host.to_owned());
        std::thread::Builder::new()
            .name("resolver".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let found: Found = (host.as_str(), 0)
                    .to_socket_addrs()
                    .map(Iterator::collect)
                    .map_err(|error| format!("{host} cannot be resolved: {error}"));
                if let Some(known) = known.lock().get_mut(&host) {
                    known.asking = None;
                    if let Ok(addresses) = &found {
                        known.last = Some((Instant::now(), addresses.clone()));
                    }
                }
                answer.send_replace(Some(found));
            })
            .map_err(|error| format!("no thread to resolve a name on: {error}"))?;
        Ok(asking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_answer_is_taken_while_there_is_no_other() {
        let resolver = Resolver::default();
        assert!(resolver.find("no-such-host.invalid").await.is_err());
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 0))];
        let long_ago = Instant::now().checked_sub(FRESH_FOR * 2).unwrap();
        resolver.known.lock().get_mut("no-such-host.invalid").unwrap().last =
            Some((long_ago, addresses.clone()));
        assert_eq!(resolver.find("no-such-host.invalid").await.unwrap(), addresses);
    }

    #[tokio::test]
    async fn this_machine_is_known_without_asking() {
        let found = Resolver::default().find("localhost").await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
    }
}
