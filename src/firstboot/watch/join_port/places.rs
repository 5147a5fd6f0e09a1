//! Who is served at the join port, and when. Each kind of client has places of its own, and within a kind the addresses
//! share them: an address holds at most an eighth of the places that are free, so that there is nearly always one for an
//! address that holds none.

use std::net::IpAddr;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Node,
    /// An address that the spec names in `network.operators`.
    Operator,
    Stranger,
}

/// A connection that is served.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) address: IpAddr,
    since: Instant,
}

#[derive(Debug, PartialEq)]
pub(super) enum Admission {
    Admitted(Place),
    /// `oldest`: the age of the oldest connection of this kind of client.
    Refused {
        oldest: Duration,
    },
}

pub(super) struct Places {
    nodes: Pool,
    operators: Pool,
    strangers: Pool,
}

impl Default for Places {
    /// Places times interval is the longest wait for a handshake: less than the timeouts of the clients.
    fn default() -> Places {
        let interval = Duration::from_millis(10);
        Places {
            nodes: Pool::new(128, Duration::ZERO),
            operators: Pool::new(64, interval),
            strangers: Pool::new(96, interval),
        }
    }
}

impl Places {
    fn pool(&mut self, client: Client) -> &mut Pool {
        match client {
            Client::Node => &mut self.nodes,
            Client::Operator => &mut self.operators,
            Client::Stranger => &mut self.strangers,
        }
    }

    pub(super) fn admit(&mut self, client: Client, address: IpAddr, now: Instant) -> Admission {
        match self.pool(client).admit(address, now) {
            true => Admission::Admitted(Place { client, address, since: now }),
            false => Admission::Refused { oldest: self.pool(client).oldest(now) },
        }
    }

    pub(super) fn leave(&mut self, place: &Place) {
        self.pool(place.client).leave(place);
    }

    /// When the handshake of this connection may start.
    pub(super) fn next_turn(&mut self, place: &Place, now: Instant) -> Instant {
        self.pool(place.client).next_turn(now)
    }
}

/// The places of one kind of client.
struct Pool {
    size: usize,
    /// Between two handshakes, which take CPU time before the client is known.
    interval: Duration,
    held: Vec<(IpAddr, Instant)>,
    last_turn: Option<Instant>,
}

impl Pool {
    fn new(size: usize, interval: Duration) -> Pool {
        Pool { size, interval, held: Vec::new(), last_turn: None }
    }

    fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let held = self.held.iter().filter(|(other, _)| *other == address).count();
        let free = self.size - self.held.len();
        let admitted = held < free.div_ceil(8);
        if admitted {
            self.held.push((address, now));
        }
        admitted
    }

    fn leave(&mut self, place: &Place) {
        let held = self.held.iter().position(|held| *held == (place.address, place.since));
        held.map(|at| self.held.remove(at));
    }

    fn oldest(&self, now: Instant) -> Duration {
        self.held.first().map(|(_, since)| now.saturating_duration_since(*since)).unwrap_or_default()
    }

    fn next_turn(&mut self, now: Instant) -> Instant {
        let turn = self.last_turn.map_or(now, |last| now.max(last + self.interval));
        self.last_turn = Some(turn);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([192, 168, 18, number])
    }

    /// How many connections each of these addresses holds if all open as many as they can, in turn.
    fn filled(places: &mut Places, client: Client, addresses: std::ops::Range<u8>) -> Vec<usize> {
        let now = Instant::now();
        for _ in 0..200 {
            for number in addresses.clone() {
                let _ = places.admit(client, address(number), now);
            }
        }
        let pool = places.pool(client);
        addresses.map(|n| pool.held.iter().filter(|(held, _)| *held == address(n)).count()).collect()
    }

    #[test]
    fn one_address_holds_a_part_of_the_places() {
        assert_eq!(filled(&mut Places::default(), Client::Stranger, 1..2), [11]);
    }

    #[test]
    fn hostile_addresses_leave_places_for_another_one() {
        for addresses in [6, 20, 40, 80, 95] {
            let mut places = Places::default();
            let held = filled(&mut places, Client::Stranger, 1..1 + addresses);
            assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
            let other = places.admit(Client::Stranger, address(200), Instant::now());
            assert!(matches!(other, Admission::Admitted(_)), "{addresses}: {held:?}");
        }
    }

    #[test]
    fn strangers_and_operators_keep_no_node_away() {
        let mut places = Places::default();
        for client in [Client::Stranger, Client::Operator] {
            filled(&mut places, client, 1..200);
            let refused = places.admit(client, address(200), Instant::now());
            assert!(matches!(refused, Admission::Refused { .. }), "{client:?}");
        }
        assert_eq!(
            filled(&mut places, Client::Node, 1..9),
            [8; 8],
            "a boot queries from several programs at once"
        );
    }

    #[test]
    fn a_connection_that_ends_frees_its_place() {
        let (mut places, now) = (Places::default(), Instant::now());
        filled(&mut places, Client::Stranger, 1..200);
        let held = places.strangers.held[17];
        places.leave(&Place { client: Client::Stranger, address: held.0, since: held.1 });
        assert!(matches!(places.admit(Client::Stranger, address(200), now), Admission::Admitted(_)));
        let later = now + Duration::from_secs(40);
        let Admission::Refused { oldest } = places.admit(Client::Stranger, address(201), later) else {
            panic!("the places are full again");
        };
        assert!(oldest >= Duration::from_secs(39));
    }

    #[test]
    fn strangers_take_turns_that_end_before_clients_give_up() {
        let (mut places, now) = (Places::default(), Instant::now());
        let mut turn = |client, now| {
            let place = Place { client, address: address(1), since: now };
            places.next_turn(&place, now).duration_since(now)
        };
        let waits: Vec<Duration> = (0..96).map(|_| turn(Client::Stranger, now)).collect();
        assert_eq!(waits[..2], [Duration::ZERO, Duration::from_millis(10)]);
        assert!(waits[95] < Duration::from_secs(1));
        assert_eq!(turn(Client::Node, now), Duration::ZERO);
        let later = now + Duration::from_secs(5);
        assert_eq!(turn(Client::Stranger, later), Duration::ZERO, "unused turns do not add up");
    }
}
