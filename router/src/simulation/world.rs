//! One seed's world: the shards, the clients, and whose turn it is.
//!
//! A shard's turn takes no simulated time while it runs and keeps the shard busy after it; between a turn and the moment
//! at which the shard decides for how long to wait, others go on. So everything that can happen between two turns of one
//! shard happens in some seed, and nothing depends on anything but the seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::client::Client;
use super::kernel::{Happening, Kernel, MICROSECOND, MILLISECOND, SECOND, SimulatedNetwork, Time};
use super::random::Random;
use super::scenario::{Scenario, leave};
use crate::admission::Admission;
use crate::args::Args;
use crate::config::{Config, ListenAddress, ListenerConfig};
use crate::control::Orders;
use crate::limits;
use crate::memory::Memory;
use crate::mesh::Web;
use crate::metrics::{Counters, Snapshot};
use crate::routes::{ShardId, Slot, inspection};
use crate::shard::{Plan, Shard, Turn};

/// How long the world may take to come to rest: the longest patience of the router is that with who takes nothing.
const REST_TIMEOUT: Time = 200 * SECOND;
/// What acknowledgements and frame headers add to a receiver's messages, at most.
const MARGIN_BYTES: usize = 65_536;
/// Steps of one world. One that takes more goes round in circles.
const STEPS_MAX: u64 = 2_000_000;

#[derive(Clone, Copy)]
enum Clock {
    /// Its turn is over for who looks at it, but not for itself.
    Busy { until: Time },
    Waiting {
        from: Time,
        until: Time,
        woken: bool,
    },
    /// It has returned.
    Gone,
}

pub struct World {
    kernel: Rc<RefCell<Kernel>>,
    shards: Vec<Shard<SimulatedNetwork>>,
    clocks: Vec<Clock>,
    /// Waits of no time at all in a row that brought nothing.
    idle_turns: Vec<u32>,
    /// All time that a shard was busy.
    busy: Vec<Time>,
    watches: Vec<Watch>,
    counters: Vec<Arc<Counters>>,
    orders: Arc<Orders>,
    clients: Vec<Client>,
    scenario: Scenario,
    step: u64,
    /// Of everything that came to pass.
    pub trace: u64,
    verbose: bool,
}

/// A receiver with something waiting, and since when it has taken nothing.
struct Watch {
    shard: usize,
    slot: Slot,
    taken_bytes: u64,
    since: Time,
    busy: Time,
    pressed_since: Option<Time>,
}

/// What one world was like, for the summary of all.
#[derive(Default)]
pub struct Summary {
    pub counters: Snapshot,
    pub steps: u64,
    pub publishes: u64,
    pub trace: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.counters.add_all(&other.counters);
        self.steps += other.steps;
        self.publishes += other.publishes;
    }
}

impl World {
    pub fn new(seed: u64, verbose: bool) -> World {
        let mut random = Random::new(seed);
        let mut scenario = Scenario::draw(&mut random);
        let owners = ahash::RandomState::with_seeds(
            random.word(),
            random.word(),
            random.word(),
            random.word(),
        );
        let shards = scenario.shards;
        let mut kernel = Kernel::new(random, shards, scenario.sockets_max);
        kernel.accept_failure_permille = scenario.accept_failure_permille;
        kernel.ledger.shards = shards;
        let clients = std::mem::take(&mut scenario.clients);
        for client in &clients {
            if let Some((at, _)) = client.script.front() {
                kernel.schedule(
                    *at,
                    Happening::Act {
                        client: client.index,
                    },
                );
            }
        }
        let kernel = Rc::new(RefCell::new(kernel));
        let config = Arc::new(config(&scenario));
        let web = Web::with_lanes(shards, scenario.lane_parcels);
        let orders = Arc::new(Orders::new(shards));
        let admission = Arc::new(Admission::new(shards, u32::MAX, None));
        let memory = Arc::new(Memory::boundless(shards));
        let counters: Vec<_> = (0..shards).map(|_| Arc::new(Counters::default())).collect();
        let shards: Vec<_> = (0..shards)
            .map(|shard| {
                let plan = Plan {
                    shard: ShardId(shard),
                    shards,
                    config: config.clone(),
                    web: web.clone(),
                    admission: admission.clone(),
                    memory: memory.clone(),
                    counters: counters[usize::from(shard)].clone(),
                    orders: orders.clone(),
                    owners: owners.clone(),
                };
                let network = SimulatedNetwork {
                    shard,
                    kernel: kernel.clone(),
                };
                let mut shard = Shard::new(plan, network);
                shard.limit(
                    scenario.stage_deliveries,
                    scenario.copies_max,
                    scenario.outbox_bytes,
                );
                let socket = || kernel.borrow().descriptor();
                let listeners = vec![(socket(), 0), (socket(), 1)];
                shard
                    .listen(listeners)
                    .expect("the simulated kernel listens");
                shard
            })
            .collect();
        World {
            clocks: vec![Clock::Busy { until: 0 }; shards.len()],
            idle_turns: vec![0; shards.len()],
            busy: vec![0; shards.len()],
            watches: Vec::new(),
            kernel,
            shards,
            counters,
            orders,
            clients,
            scenario,
            step: 0,
            trace: 0,
            verbose,
        }
    }

    /// The whole life of the world. `Err` says which promise was broken, and when.
    pub fn run(&mut self) -> Result<Summary, String> {
        let result = self.live();
        let time = self.kernel.borrow().time as f64 / SECOND as f64;
        result.map_err(|fault| {
            format!(
                "{fault}\n  at {time:.6} s, step {}; {}",
                self.step,
                self.counters()
            )
        })
    }

    fn live(&mut self) -> Result<Summary, String> {
        let span = self.scenario.span;
        match self.scenario.drain_at {
            Some(at) => {
                self.run_until(at)?;
                self.drain();
            }
            None => self.run_until(span)?,
        }
        if self.scenario.drain_at.is_none() {
            for client in &mut self.clients {
                client.recover();
            }
            self.wake_clients();
            self.rest()?;
            self.check_settled()?;
            if self.scenario.ends_by_drain {
                self.drain();
            } else {
                for client in &mut self.clients {
                    let mut kernel = self.kernel.borrow_mut();
                    let leave = leave(&mut kernel.random);
                    client.leave_at_last(&mut kernel, leave);
                }
                self.rest()?;
            }
        }
        if self.orders.drain_ordered() {
            self.run_until_gone()?;
        }
        self.check_gone()?;
        let kernel = self.kernel.borrow();
        Ok(Summary {
            counters: self.counters(),
            steps: self.step,
            publishes: kernel.ledger.publishes.len() as u64,
            trace: self.trace,
        })
    }

    fn counters(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for counters in &self.counters {
            sum.add(counters);
        }
        sum
    }

    fn now(&self) -> Time {
        self.kernel.borrow().time
    }

    fn drain(&mut self) {
        self.kernel.borrow_mut().ledger.draining = true;
        self.orders.drain();
        self.heed_alarms();
    }

    fn wake_clients(&mut self) {
        let mut kernel = self.kernel.borrow_mut();
        let now = kernel.time;
        for client in &self.clients {
            kernel.schedule(
                now,
                Happening::Act {
                    client: client.index,
                },
            );
        }
    }

    fn run_until(&mut self, time: Time) -> Result<(), String> {
        while self.next_at().is_some_and(|at| at <= time) {
            self.step()?;
        }
        let mut kernel = self.kernel.borrow_mut();
        kernel.time = kernel.time.max(time);
        Ok(())
    }

    fn run_until_gone(&mut self) -> Result<(), String> {
        let deadline = self.now() + REST_TIMEOUT;
        while !self.clocks.iter().all(|clock| matches!(clock, Clock::Gone)) {
            self.step()?;
            if self.now() > deadline {
                return Err(format!("the drain does not end: {:?}", self.unrest()));
            }
        }
        Ok(())
    }

    /// Runs until nothing is under way any more.
    fn rest(&mut self) -> Result<(), String> {
        let deadline = self.now() + REST_TIMEOUT;
        loop {
            let before = self.step;
            while self.next_at().is_some() && self.step < before + 16 {
                self.step()?;
            }
            let unrest = self.unrest();
            if unrest.is_none() {
                return Ok(());
            }
            if self.now() > deadline {
                return Err(format!(
                    "the world does not come to rest: {}",
                    unrest.unwrap_or_default()
                ));
            }
        }
    }

    fn unrest(&self) -> Option<String> {
        let kernel = self.kernel.borrow();
        if kernel.next_at().is_some() {
            return Some("something is on its way".to_owned());
        }
        for (index, shard) in self.shards.iter().enumerate() {
            if let Clock::Gone = self.clocks[index] {
                continue;
            }
            if kernel.is_due(index) {
                return Some(format!("shard {index} has events"));
            }
            if shard.has_postponed() {
                return Some(format!("shard {index} has not dealt with all that came"));
            }
            if let Some(unrest) = shard.core().unrest() {
                return Some(format!("shard {index}: {unrest}"));
            }
        }
        let busy = self.clients.iter().find(|client| !client.rests());
        busy.map(|client| format!("client {} has something to say", client.index))
    }

    fn next_at(&self) -> Option<Time> {
        let shards = self.clocks.iter().filter_map(|clock| match clock {
            Clock::Busy { until } | Clock::Waiting { until, .. } => Some(*until),
            Clock::Gone => None,
        });
        let happening = self.kernel.borrow().next_at();
        shards.chain(happening).min()
    }

    /// Lets the next thing come to pass, and looks at what it did.
    fn step(&mut self) -> Result<(), String> {
        self.step += 1;
        if self.step > STEPS_MAX {
            return Err("the world goes round in circles".to_owned());
        }
        let Some(at) = self.next_at() else {
            return Err("nothing will ever happen".to_owned());
        };
        let is_due = |clock: &Clock| match clock {
            Clock::Busy { until } | Clock::Waiting { until, .. } => *until == at,
            Clock::Gone => false,
        };
        let chosen = {
            let mut kernel = self.kernel.borrow_mut();
            kernel.time = kernel.time.max(at);
            kernel.ledger.step = self.step;
            let happens = u64::from(kernel.next_at() == Some(at));
            let due = self.clocks.iter().filter(|clock| is_due(clock)).count() as u64;
            let nth = match due + happens {
                1 => 0,
                choices => kernel.random.below(choices) as usize,
            };
            let mut due = (0..self.clocks.len()).filter(|shard| is_due(&self.clocks[*shard]));
            due.nth(nth)
        };
        match chosen {
            Some(shard) => self.go_on(shard)?,
            None => self.happen(),
        }
        self.heed_alarms();
        let fault = self.kernel.borrow_mut().ledger.faults.drain(..).next();
        if let Some(fault) = fault {
            return Err(fault);
        }
        for (shard, clock) in self.clocks.iter().enumerate() {
            if let Clock::Waiting { woken: false, .. } = clock
                && self.shards[shard].core().mesh.has_mail()
            {
                return Err(format!("shard {shard} sleeps on its mail"));
            }
        }
        Ok(())
    }

    fn note(&mut self, what: u64, which: u64) {
        let word = self.now() ^ what << 56 ^ which << 40 ^ self.trace.rotate_left(17);
        self.trace = Random::new(word).word();
    }

    fn happen(&mut self) {
        let happening = self.kernel.borrow_mut().next_happening();
        let Some(happening) = happening else { return };
        if self.verbose {
            eprintln!("{:>14} {happening:?}", self.now());
        }
        match happening {
            Happening::Connect { wire } => {
                self.note(1, wire as u64);
                let refused = self.clocks.iter().any(|clock| matches!(clock, Clock::Gone));
                self.kernel.borrow_mut().arrive(wire, refused);
            }
            Happening::Segment { wire } => {
                self.note(2, wire as u64);
                self.kernel.borrow_mut().segment(wire);
            }
            Happening::Act { client } => {
                self.note(3, client as u64);
                self.clients[client].act(&mut self.kernel.borrow_mut());
            }
        }
    }

    /// Whoever was woken, or has something to deal with, is up soon.
    fn heed_alarms(&mut self) {
        let mut kernel = self.kernel.borrow_mut();
        for shard in 0..self.clocks.len() {
            if kernel.take_alarm(shard)
                && let Clock::Waiting { from, until, woken } = &mut self.clocks[shard]
            {
                *woken = true;
                let soon = (*from).max(kernel.time) + kernel.random.below(20 * MICROSECOND);
                *until = soon.min(*until);
            }
        }
    }

    fn go_on(&mut self, shard: usize) -> Result<(), String> {
        match self.clocks[shard] {
            Clock::Busy { .. } => self.wait(shard, self.now()),
            Clock::Waiting { .. } => self.turn(shard),
            Clock::Gone => Ok(()),
        }
    }

    /// The shard decides for how long to wait.
    fn wait(&mut self, shard: usize, from: Time) -> Result<(), String> {
        let wait = self.shards[shard].patience().as_nanos() as Time;
        let mut kernel = self.kernel.borrow_mut();
        let is_due = kernel.is_due(shard);
        let core = self.shards[shard].core();
        let has_postponed = self.shards[shard].has_postponed();
        if wait == 0 && !is_due && !core.mesh.has_mail() && !has_postponed {
            self.idle_turns[shard] += 1;
            if self.idle_turns[shard] > 3 {
                return Err(format!(
                    "shard {shard} does not wait, and has nothing to do"
                ));
            }
        } else {
            self.idle_turns[shard] = 0;
        }
        let until = if is_due || wait == 0 {
            from
        } else {
            // A wait may be longer than asked for; one that only tries a lane again may be much longer.
            let late = (wait / 16).max(if wait <= 100 * MICROSECOND {
                MILLISECOND
            } else {
                0
            });
            from + wait + kernel.random.below(late)
        };
        self.clocks[shard] = Clock::Waiting {
            from,
            until,
            woken: until == from,
        };
        Ok(())
    }

    fn turn(&mut self, shard: usize) -> Result<(), String> {
        self.note(4, shard as u64);
        let network = &mut self.kernel;
        network.borrow_mut().turn(shard);
        let turn = self.shards[shard].serve();
        if self.shards.len() == 1 && !self.shards[0].has_postponed() {
            let ledger = &mut self.kernel.borrow_mut().ledger;
            let step = ledger.step;
            ledger.caught_up_at.push(step);
        }
        let delivered = self.kernel.borrow_mut().take_delivered(shard);
        if self.verbose {
            eprintln!("{:>14} shard {shard}: {delivered} events", self.now());
        }
        self.trace ^= delivered << 3;
        if let Turn::Last = turn {
            self.clocks[shard] = Clock::Gone;
            self.check_shard(shard)?;
            return Ok(());
        }
        let (now, cost) = {
            let mut kernel = self.kernel.borrow_mut();
            let pauses = kernel.random.permille(self.scenario.pause_permille) && delivered > 0;
            let cost = if pauses {
                kernel.random.below(self.scenario.pause)
            } else {
                kernel.random.between(MICROSECOND, 30 * MICROSECOND)
            };
            (kernel.time, cost)
        };
        self.busy[shard] += cost;
        if cost < 10 * MICROSECOND {
            self.wait(shard, now + cost)?;
        } else {
            self.clocks[shard] = Clock::Busy { until: now + cost };
        }
        self.check_shard(shard)
    }

    /// What must hold of a shard after each of its turns.
    fn check_shard(&mut self, shard: usize) -> Result<(), String> {
        let core = self.shards[shard].core();
        let fault = |text: String| Err(format!("shard {shard}: {text}"));
        if let Some(text) = core.fault_between_turns() {
            return fault(text);
        }
        let kernel = self.kernel.borrow();
        let largest = kernel.ledger.largest_bytes + 1_024;
        // Each publisher that is not held may add one message to a lane that is at its bound.
        let outbox_max = self.scenario.outbox_bytes + (kernel.wires.len() + 1) * largest;
        if core.mesh.outbox_bytes_max() > outbox_max {
            return fault(format!(
                "{} bytes wait for a lane",
                core.mesh.outbox_bytes_max()
            ));
        }
        let (now, busy) = (kernel.time, self.busy[shard]);
        let is_gone = matches!(self.clocks[shard], Clock::Gone);
        let has_postponed = self.shards[shard].has_postponed();
        let watches = &mut self.watches;
        watches.retain(|watch| {
            watch.shard != shard || {
                core.every_connection().any(|connection| {
                    connection.slot == watch.slot && connection.egress.bytes() > 0
                })
            }
        });
        for connection in core.every_connection() {
            let egress = &connection.egress;
            let slot = connection.slot;
            let in_flight = kernel.is_sending(shard as u16, connection.socket);
            // What it has not dealt with yet may be the end of a send, or a window.
            if !is_gone && !in_flight && !connection.closing && !has_postponed {
                if !egress.is_idle() && !egress.is_waiting() {
                    return fault(format!("{slot:?} has bytes ready, and nobody sends them"));
                }
                if egress.is_waiting() && connection.http2.send_window() > 0 {
                    return fault(format!("messages wait for {slot:?}, whose window is open"));
                }
            }
            // Who reaches a receiver above its mark has reached it once. Between shards more may be under way.
            let pressing_bytes = egress.pressing_publishers() * (largest + largest / 1_000);
            if self.shards.len() == 1
                && egress.bytes() > limits::EGRESS_SOFT_BYTES + MARGIN_BYTES + pressing_bytes
            {
                return fault(format!("{} bytes wait for {slot:?}", egress.bytes()));
            }
            if egress.bytes() == 0 {
                continue;
            }
            let watch = watches
                .iter_mut()
                .find(|watch| watch.shard == shard && watch.slot == slot);
            let Some(watch) = watch else {
                watches.push(Watch {
                    shard,
                    slot,
                    taken_bytes: egress.taken_bytes(),
                    since: now,
                    busy,
                    pressed_since: None,
                });
                continue;
            };
            if watch.taken_bytes != egress.taken_bytes() {
                watch.taken_bytes = egress.taken_bytes();
                watch.since = now;
                watch.busy = busy;
                watch.pressed_since = None;
            }
            if egress.is_pressed() {
                watch.pressed_since.get_or_insert(now);
            } else {
                watch.pressed_since = None;
            }
            let excused = busy - watch.busy;
            let sweep = limits::SWEEP_INTERVAL.as_nanos() as Time;
            let grace = limits::EGRESS_GRACE.as_nanos() as Time;
            let stall = limits::STALL_TIMEOUT.as_nanos() as Time;
            // One grace may have begun just before it stopped; waits may be a sixteenth longer than asked for.
            if let Some(since) = watch.pressed_since
                && now - since > 2 * (grace + 3 * sweep) + excused
            {
                return fault(format!(
                    "{slot:?} has stopped reading and holds its publishers for ever"
                ));
            }
            if now - watch.since > stall + 20 * sweep + excused {
                return fault(format!("{slot:?} takes nothing and is not cut"));
            }
        }
        Ok(())
    }

    fn check_settled(&mut self) -> Result<(), String> {
        let counters = self.counters();
        let tables: Vec<_> = self
            .shards
            .iter()
            .map(|shard| &shard.core().routes)
            .collect();
        if let Some(fault) = inspection::fault_when_settled(&tables) {
            return Err(fault);
        }
        let ledger = &mut self.kernel.borrow_mut().ledger;
        ledger.check_settled(&counters);
        let exact = ledger.is_exact();
        ledger.check_balance(&counters, exact, 0);
        match ledger.faults.drain(..).next() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// When everybody has gone, nothing is left.
    fn check_gone(&mut self) -> Result<(), String> {
        let counters = self.counters();
        if !self.orders.drain_ordered() {
            let tables: Vec<_> = self
                .shards
                .iter()
                .map(|shard| &shard.core().routes)
                .collect();
            if let Some(fault) = inspection::fault_when_settled(&tables) {
                return Err(fault);
            }
        }
        for (index, shard) in self.shards.iter().enumerate() {
            let core = shard.core();
            // Who leaves while the router drains may not have finished when the shard returns.
            let members = match self.orders.drain_ordered() {
                true => 0,
                false => core.routes.members(),
            };
            let connections = core.every_connection().count();
            if members + connections + core.parked_bytes + core.unfinished_bytes > 0 {
                return Err(format!(
                    "shard {index} is left with {members} members, {connections} connections, {} bytes parked, {} unfinished",
                    core.parked_bytes, core.unfinished_bytes
                ));
            }
        }
        let stranded: usize = self
            .shards
            .iter()
            .map(|shard| shard.core().mesh.stranded())
            .sum();
        if stranded > 0 && !self.orders.drain_ordered() {
            return Err(format!("{stranded} messages are stranded between shards"));
        }
        let placed = self.shards[0].core().admission.present();
        let kernel = &mut *self.kernel.borrow_mut();
        let (open, unadopted) = kernel.sockets();
        // A shard that returns does not wait for its sockets to be closed.
        if open > 0 && !self.orders.drain_ordered()
            || unadopted > 0
            || placed > 0
            || counters.connections_open > 0
        {
            return Err(format!(
                "{open} sockets are open, {unadopted} were accepted and forgotten, {placed} connections placed, {} counted as open",
                counters.connections_open
            ));
        }
        let ledger = &mut kernel.ledger;
        let exact = ledger.is_exact();
        ledger.check_balance(&counters, exact, stranded as u64);
        match ledger.faults.drain(..).next() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

fn config(scenario: &Scenario) -> Config {
    let listener = |require_header_mac| {
        let address = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
        let mut listener = ListenerConfig::new(address);
        listener.require_header_mac = require_header_mac;
        listener.keepalive_interval = std::time::Duration::from_nanos(scenario.keepalive_interval);
        listener
    };
    let mut config = Config::load(&Args::default(), &|_| None).expect("the defaults are valid");
    config.shards = scenario.shards.try_into().expect("at least one");
    config.listeners = vec![listener(false), listener(true)];
    config.node_id = "router".to_owned();
    config
}
