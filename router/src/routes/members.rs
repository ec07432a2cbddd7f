//! The connections of one shard that subscribed to one name.

use ahash::RandomState;

use indexmap::IndexMap;

use super::Slot;

/// What kind of link a member came by: anycast prefers clients that are attached here to those behind a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Direct,
    Peer,
}

/// Members by class, leaving ones not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub direct: u32,
    pub peer: u32,
}

impl Count {
    pub fn of(self, class: Class) -> u32 {
        match class {
            Class::Direct => self.direct,
            Class::Peer => self.peer,
        }
    }
}

/// `references` subscriptions keep a member; with none left it is leaving until `leaving` unsubscribes have settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    references: u32,
    leaving: u32,
}

const FIRST: Stay = Stay {
    references: 1,
    leaving: 0,
};

/// Most names have one member, which costs no heap; many are found by hash and reached by position.
#[derive(Debug, Default)]
pub enum Members {
    #[default]
    None,
    One(Slot, Class, Stay),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
pub struct Many {
    direct: Group,
    peer: Group,
}

#[derive(Debug, Default)]
struct Group {
    stays: IndexMap<Slot, Stay, RandomState>,
    live: u32,
}

impl Many {
    fn group(&self, class: Class) -> &Group {
        match class {
            Class::Direct => &self.direct,
            Class::Peer => &self.peer,
        }
    }

    fn group_mut(&mut self, class: Class) -> &mut Group {
        match class {
            Class::Direct => &mut self.direct,
            Class::Peer => &mut self.peer,
        }
    }

    fn group_of(&mut self, slot: Slot) -> Option<&mut Group> {
        [&mut self.direct, &mut self.peer]
            .into_iter()
            .find(|group| group.stays.contains_key(&slot))
    }
}

impl Members {
    pub fn is_empty(&self) -> bool {
        matches!(self, Members::None)
    }

    pub fn contains(&self, slot: Slot) -> bool {
        match self {
            Members::None => false,
            Members::One(member, ..) => *member == slot,
            Members::Many(many) => {
                many.direct.stays.contains_key(&slot) || many.peer.stays.contains_key(&slot)
            }
        }
    }

    pub fn count(&self) -> Count {
        let of = |class| self.live(class);
        Count {
            direct: of(Class::Direct),
            peer: of(Class::Peer),
        }
    }

    /// Adds a reference. True if `slot` was no live member before.
    pub fn add(&mut self, slot: Slot, class: Class) -> bool {
        match self {
            Members::None => {
                *self = Members::One(slot, class, FIRST);
                true
            }
            Members::One(member, _, stay) if *member == slot => {
                stay.references += 1;
                stay.references == 1
            }
            Members::One(member, member_class, stay) => {
                let mut many = Box::<Many>::default();
                let (member, member_class, stay) = (*member, *member_class, *stay);
                let group = many.group_mut(member_class);
                group.live += u32::from(stay.references > 0);
                group.stays.insert(member, stay);
                *self = Members::Many(many);
                self.add(slot, class)
            }
            Members::Many(many) => {
                let group = many.group_mut(class);
                let stay = group.stays.entry(slot).or_insert(Stay {
                    references: 0,
                    leaving: 0,
                });
                stay.references += 1;
                let live_now = stay.references == 1;
                group.live += u32::from(live_now);
                live_now
            }
        }
    }

    /// Takes one reference back. True if it was the last: the member is leaving now.
    pub fn release(&mut self, slot: Slot) -> bool {
        let stay = match self {
            Members::One(member, _, stay) if *member == slot => stay,
            Members::Many(many) => {
                let Some(group) = many.group_of(slot) else {
                    return false;
                };
                let Some(stay) = group.stays.get_mut(&slot) else {
                    return false;
                };
                if stay.references == 1 {
                    group.live -= 1;
                }
                stay
            }
            _ => return false,
        };
        if stay.references == 0 {
            return false;
        }
        stay.references -= 1;
        let leaves = stay.references == 0;
        stay.leaving += u32::from(leaves);
        leaves
    }

    /// One unsubscribe has settled: the member goes unless it subscribed again or another unsubscribe is on its way.
    pub fn finish_leaving(&mut self, slot: Slot) {
        let stay = match self {
            Members::One(member, _, stay) if *member == slot => stay,
            Members::Many(many) => {
                let Some(stay) = many
                    .group_of(slot)
                    .and_then(|group| group.stays.get_mut(&slot))
                else {
                    return;
                };
                stay
            }
            _ => return,
        };
        stay.leaving = stay.leaving.saturating_sub(1);
        if *stay
            == (Stay {
                references: 0,
                leaving: 0,
            })
        {
            self.remove(slot);
        }
    }

    /// Removes a member with all its references. True if it was live.
    pub fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Members::One(member, _, stay) if *member == slot => {
                let live = stay.references > 0;
                *self = Members::None;
                live
            }
            Members::Many(many) => {
                let Some(group) = many.group_of(slot) else {
                    return false;
                };
                let Some(stay) = group.stays.swap_remove(&slot) else {
                    return false;
                };
                let live = stay.references > 0;
                group.live -= u32::from(live);
                if many.direct.stays.is_empty() && many.peer.stays.is_empty() {
                    *self = Members::None;
                }
                live
            }
            _ => false,
        }
    }

    /// Every member, leaving ones included: their unsubscribe is not acknowledged yet.
    pub fn all(&self, into: &mut Vec<Slot>) {
        match self {
            Members::None => {}
            Members::One(member, ..) => into.push(*member),
            Members::Many(many) => {
                into.extend(many.direct.stays.keys().chain(many.peer.stays.keys()))
            }
        }
    }

    pub fn all_but(&self, origin: Slot, into: &mut Vec<Slot>) {
        self.all(into);
        if let Some(at) = into.iter().position(|slot| *slot == origin) {
            into.swap_remove(at);
        }
    }

    /// Any member, turning; directly attached before peers, live before leaving.
    pub fn any(&self, turn: u32) -> Option<Slot> {
        match self {
            Members::None => None,
            Members::One(member, ..) => Some(*member),
            Members::Many(many) => {
                let group = if many.direct.live > 0 || many.peer.stays.is_empty() {
                    &many.direct
                } else {
                    &many.peer
                };
                let at = turn as usize % group.stays.len().max(1);
                group
                    .from(at)
                    .find(|(_, stay)| stay.references > 0)
                    .map(|(slot, _)| slot)
                    .or_else(|| {
                        let (slot, _) = group.stays.get_index(at)?;
                        Some(*slot)
                    })
            }
        }
    }

    fn live(&self, class: Class) -> u32 {
        match self {
            Members::None => 0,
            Members::One(_, member_class, stay) => {
                u32::from(*member_class == class && stay.references > 0)
            }
            Members::Many(many) => many.group(class).live,
        }
    }

    /// Live members of `class` other than `origin`.
    pub fn live_but(&self, origin: Slot, class: Class) -> u32 {
        let own = match self {
            Members::None => false,
            Members::One(member, member_class, stay) => {
                *member == origin && *member_class == class && stay.references > 0
            }
            Members::Many(many) => many
                .group(class)
                .stays
                .get(&origin)
                .is_some_and(|stay| stay.references > 0),
        };
        self.live(class) - u32::from(own)
    }

    /// A live member of `class` other than `origin`; different `n` below [`Members::live_but`] give different members.
    pub fn nth_but(&self, origin: Slot, class: Class, n: u32) -> Option<Slot> {
        match self {
            Members::None => None,
            Members::One(member, ..) => (*member != origin).then_some(*member),
            Members::Many(many) => {
                let group = many.group(class);
                let mut at = n as usize;
                if group
                    .stays
                    .get_index_of(&origin)
                    .is_some_and(|own| own <= at)
                {
                    at += 1;
                }
                group
                    .from(at)
                    .find(|(slot, stay)| *slot != origin && stay.references > 0)
                    .map(|(slot, _)| slot)
            }
        }
    }
}

impl Group {
    /// Every stay once, beginning at position `at`, which may be past the end.
    fn from(&self, at: usize) -> impl Iterator<Item = (Slot, Stay)> {
        let members = self.stays.len();
        (0..members)
            .filter_map(move |i| self.stays.get_index((at + i) % members))
            .map(|(slot, stay)| (*slot, *stay))
    }
}
