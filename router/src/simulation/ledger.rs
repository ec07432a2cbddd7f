//! What clients asked for and what came of it: the router's promises, checked message by message.
//!
//! Time is counted in steps of the simulation here: what happens in one step has no order that anybody could see.

use std::collections::BTreeMap;

use slim_proto::name::{InstanceId, Name};

use crate::metrics::Snapshot;

/// A name of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: u8,
    /// `None` is NULL: everybody under the prefix.
    pub id: Option<u8>,
}

impl Target {
    pub fn name(self) -> Name {
        let name = Name::new("org", "ns", &format!("service-{}", self.service));
        match self.id {
            Some(id) => name.with_id(InstanceId::new(u128::from(id))),
            None => name,
        }
    }

    /// Whether a subscription to this gets what is published to `destination` (dataplane 4.4).
    fn covers(self, destination: Target) -> bool {
        self.service == destination.service
            && (destination.id.is_none() || destination.id == self.id)
    }
}

/// Something of a client's whose arrival at a shard is noted.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    Publish(usize),
    Subscribe(usize),
    Unsubscribe(usize),
}

pub struct Publish {
    pub wire: usize,
    pub to: Target,
    pub to_all: bool,
    /// Its ttl is used up.
    pub doomed: bool,
    pub read_at: Option<u64>,
    pub receivers: Vec<usize>,
}

pub struct Subscription {
    pub wire: usize,
    pub to: Target,
    /// An unsubscribe from what was never subscribed to: it is refused.
    pub is_bogus: bool,
    pub read_at: Option<u64>,
    pub acked_at: Option<u64>,
    /// When the client asked for its end.
    pub left_at: Option<u64>,
    pub leave_read_at: Option<u64>,
    pub leave_acked_at: Option<u64>,
}

#[derive(Default)]
struct Link {
    /// The first sign of an end, from either side.
    ended_at: Option<u64>,
    is_refused: bool,
    /// Why the router may end it.
    blemish: Option<&'static str>,
    /// The last message from each other link.
    last_from: BTreeMap<usize, usize>,
    /// The latest `read_at` of what was delivered.
    newest_read_at: u64,
}

#[derive(Default)]
pub struct Ledger {
    /// Steps after which the only shard had dealt with all that it had read, in order.
    pub caught_up_at: Vec<u64>,
    pub step: u64,
    pub shards: u16,
    pub draining: bool,
    pub publishes: Vec<Publish>,
    /// Of the largest of them.
    pub largest_bytes: usize,
    pub subscriptions: Vec<Subscription>,
    links: Vec<Link>,
    pub faults: Vec<String>,
    /// Publishes that receivers' kernels have taken whole.
    pub taken: u64,
    /// Those of them that were in a send that was cut: the router cannot know, and may have counted them as lost.
    pub cut_send_messages: u64,
}

impl Ledger {
    pub fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    pub fn connected(&mut self, wire: usize) {
        debug_assert_eq!(wire, self.links.len());
        self.links.push(Link::default());
    }

    pub fn refused(&mut self, wire: usize) {
        self.links[wire].is_refused = true;
    }

    /// From now on the router may end this link.
    pub fn blemish(&mut self, wire: usize, why: &'static str) {
        self.links[wire].blemish.get_or_insert(why);
    }

    pub fn ended(&mut self, wire: usize) {
        self.links[wire].ended_at.get_or_insert(self.step);
        self.links[wire].blemish.get_or_insert("it has ended");
    }

    /// The router ends a link: only one that gave it a reason.
    pub fn router_ended(&mut self, wire: usize) {
        if self.links[wire].blemish.is_none() && !self.draining {
            self.fault(format!(
                "the router ended wire {wire}, whose client is faultless"
            ));
        }
        self.ended(wire);
    }

    pub fn has_ended(&self, wire: usize) -> bool {
        self.links[wire].ended_at.is_some()
    }

    /// A shard has been given the last byte of it.
    pub fn read(&mut self, mark: Mark) {
        let step = self.step;
        match mark {
            Mark::Publish(index) => self.publishes[index].read_at = Some(step),
            Mark::Subscribe(index) => self.subscriptions[index].read_at = Some(step),
            Mark::Unsubscribe(index) => self.subscriptions[index].leave_read_at = Some(step),
        }
    }

    /// A receiver's kernel has taken a publish whole.
    pub fn delivered(&mut self, wire: usize, index: usize) {
        self.taken += 1;
        let Some(publish) = self.publishes.get(index) else {
            return self.fault(format!(
                "wire {wire} got publish {index}, which nobody sent"
            ));
        };
        let from = publish.wire;
        let Some(read_at) = publish.read_at else {
            return self.fault(format!(
                "wire {wire} got publish {index}, which has not arrived"
            ));
        };
        let is_member = self.subscriptions.iter().any(|subscription| {
            subscription.wire == wire
                && !subscription.is_bogus
                && subscription.read_at.is_some()
                && subscription.to.covers(publish.to)
                && subscription.leave_acked_at.is_none_or(|at| at >= read_at)
        });
        let fault = if !is_member {
            Some("after its unsubscribe was acknowledged, or without any subscription")
        } else if publish.wire == wire {
            Some("its own")
        } else if publish.doomed {
            Some("whose ttl was used up")
        } else if publish.receivers.contains(&wire) {
            Some("twice")
        } else if !publish.to_all && !publish.receivers.is_empty() {
            Some("which was for one receiver and had reached one")
        } else {
            None
        };
        if let Some(fault) = fault {
            self.fault(format!(
                "wire {wire} got publish {index} of wire {from}: {fault}"
            ));
        }
        let link = &mut self.links[wire];
        link.newest_read_at = link.newest_read_at.max(read_at);
        let before = link.last_from.insert(from, index);
        if let Some(before) = before
            && before >= index
        {
            self.fault(format!(
                "order: wire {wire} got publish {index} of wire {from} after publish {before}"
            ));
        }
        self.publishes[index].receivers.push(wire);
    }

    pub fn acknowledged(&mut self, wire: usize, id: u64, success: bool) {
        let step = self.step;
        let newest_read_at = self.links[wire].newest_read_at;
        let index = id as usize - 1;
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return self.fault(format!("wire {wire} got ack {id}, which nobody asked for"));
        };
        let fault = if subscription.wire != wire {
            Some("which another link asked for")
        } else if subscription.is_bogus == success {
            Some("with the wrong outcome")
        } else if subscription.acked_at.is_none() {
            subscription.acked_at = Some(step);
            if subscription.read_at.is_none() {
                Some("before the request has arrived")
            } else if self.shards == 1
                && caught_up(&self.caught_up_at, subscription.read_at, newest_read_at)
            {
                // On one shard an ack is due in the turn that dealt with the request.
                Some("behind messages that arrived after its request")
            } else {
                None
            }
        } else if subscription.leave_acked_at.is_none() {
            subscription.leave_acked_at = Some(step);
            subscription
                .leave_read_at
                .is_none()
                .then_some("once too often")
        } else {
            Some("once too often")
        };
        if let Some(fault) = fault {
            self.fault(format!("wire {wire} got ack {id} {fault}"));
        }
    }

    /// What must hold when all that was sent has come to rest and links still stand.
    pub fn check_settled(&mut self, counters: &Snapshot) {
        let mut faults = Vec::new();
        for (index, subscription) in self.subscriptions.iter().enumerate() {
            if self.has_ended(subscription.wire) {
                continue;
            }
            let (wire, id) = (subscription.wire, index + 1);
            if subscription.read_at.is_some() && subscription.acked_at.is_none() {
                faults.push(format!("request {id} of wire {wire} was never answered"));
            }
            if subscription.leave_read_at.is_some() && subscription.leave_acked_at.is_none() {
                faults.push(format!("the end of {id} of wire {wire} was never answered"));
            }
        }
        // What the router may have lost with a sender, or at its own hard bounds, it has counted.
        let forgiven = counters.dropped_sender_left
            + counters.dropped_parked_full
            + counters.dropped_egress_full;
        let mut missed = 0;
        let mut first_missed = None;
        let mut unroutable = 0;
        for (index, publish) in self.publishes.iter().enumerate() {
            let Some(read_at) = publish.read_at else {
                continue;
            };
            let mut has_member = false;
            for subscription in &self.subscriptions {
                let wire = subscription.wire;
                let is_steady = wire != publish.wire
                    && subscription.to.covers(publish.to)
                    && !subscription.is_bogus
                    && subscription.acked_at.is_some_and(|at| at < read_at)
                    && subscription.left_at.is_none()
                    && !self.has_ended(wire);
                has_member |= is_steady;
                if is_steady
                    && publish.to_all
                    && !publish.doomed
                    && !self.has_ended(publish.wire)
                    && !publish.receivers.contains(&wire)
                {
                    missed += 1;
                    first_missed.get_or_insert((index, wire));
                }
            }
            unroutable += u64::from(!has_member && !publish.doomed);
        }
        if missed > forgiven {
            faults.push(format!(
                "{missed} deliveries to receivers that were there all the time are missing, {forgiven} are counted; \
                 first (publish, wire): {first_missed:?}"
            ));
        }
        // Who only unsubscribes is found by everything that was routed to it before.
        let nobody_left = self.links.iter().all(|link| link.ended_at.is_none());
        if nobody_left && counters.dropped_receiver_left > 0 {
            faults.push(format!(
                "{} messages found their receiver gone, and nobody has gone",
                counters.dropped_receiver_left
            ));
        }
        if counters.dropped_no_route > unroutable {
            faults.push(format!(
                "{} publishes found nobody, and only {unroutable} had nobody to find",
                counters.dropped_no_route
            ));
        }
        self.faults.append(&mut faults);
    }

    /// Conservation: what was published is delivered, or counted with its reason.
    ///
    /// - `exact`: every publish of this world was for one receiver, so that each has exactly one fate.
    /// - `stranded`: on their way between shards that have all returned.
    pub fn check_balance(&mut self, counters: &Snapshot, exact: bool, stranded: u64) {
        let read = self
            .publishes
            .iter()
            .filter(|publish| publish.read_at.is_some());
        let (mut handed, mut handed_of_living) = (0, 0);
        for publish in read {
            handed += 1;
            handed_of_living += u64::from(!self.has_ended(publish.wire));
        }
        if !(handed_of_living..=handed).contains(&counters.messages_received) {
            self.fault(format!(
                "{} publishes counted as received, {handed} arrived, {handed_of_living} of them on links that stand",
                counters.messages_received
            ));
        }
        let taken = self.taken - self.cut_send_messages;
        let lost_by_receivers = counters.dropped_slow_receiver + counters.dropped_receiver_left;
        let delivered = counters.messages_delivered;
        if delivered < taken + counters.dropped_slow_receiver
            || delivered > taken + lost_by_receivers
        {
            self.fault(format!(
                "{delivered} counted as delivered, {taken} were taken, {lost_by_receivers} counted as lost at receivers"
            ));
        }
        if exact {
            let accounted = taken
                + lost_by_receivers
                + stranded
                + counters.dropped_no_route
                + counters.dropped_ttl
                + counters.dropped_long_header
                + counters.dropped_too_large
                + counters.dropped_egress_full
                + counters.dropped_parked_full
                + counters.dropped_sender_left;
            if accounted != counters.messages_received {
                self.fault(format!(
                    "{} publishes received, {accounted} accounted for: {taken} taken, and {counters}",
                    counters.messages_received
                ));
            }
        }
    }

    /// Whether every publish was for one receiver.
    pub fn is_exact(&self) -> bool {
        self.publishes.iter().all(|publish| !publish.to_all)
    }
}

/// Whether a shard dealt with what it read at `first` before it read at `then`.
fn caught_up(at: &[u64], first: Option<u64>, then: u64) -> bool {
    let since = at.partition_point(|step| Some(*step) < first);
    at.get(since).is_some_and(|step| *step < then)
}
