//! Every bound of the router, each with its unit and its answer when reached.
//!
//! What an operator can set (`limits:` of the file) has its default here under its plain name, and its hard bounds as
//! `.._LEAST` and `.._MAX`; "Limits" in `ARCHITECTURE.md` says what each of them answers.
//!
//! Relations between bounds are checked by the compiler at the end of the file.

use std::time::Duration;

/// Shards of one router. The owner of a name remembers which shards hold a copy of its entry in one `u128`.
pub const SHARDS_MAX: u16 = 128;

/// Sockets of one shard. Full: the connection is closed at accept and counted.
pub const SOCKETS_PER_SHARD_MAX: u32 = 262_144;

/// Submission queue entries of one ring. Full: the ring submits early, without waiting.
pub const RING_SUBMISSION_ENTRIES: u32 = 1_024;

/// Completion queue entries of one ring. Full: the kernel keeps the surplus until the next turn.
pub const RING_COMPLETION_ENTRIES: u32 = 8_192;

/// Receive buffers that one shard lends to the kernel. Used up: receiving waits until buffers are back; each turn reads one of
/// them at least, and [`STAGE_RECEIVED_BYTES`] of them mostly.
pub const RECEIVE_BUFFERS: u16 = 256;

/// Bytes of one receive buffer. A message that fits into one read is forwarded straight out of it.
pub const RECEIVE_BUFFER_BYTES: u32 = 32_768;

/// Bytes that a client may send before we return credit: HTTP/2 stream and connection window alike. It bounds what one
/// connection can make us hold while its messages wait for a slow receiver or for a route.
pub const RECEIVE_WINDOW_BYTES: u32 = 1_048_576;

/// Largest DATA frame that we accept, in bytes. Frames are read as they arrive and never buffered whole.
pub const RECEIVE_FRAME_BYTES_MAX: u32 = 1_048_576;

/// Header list of one request, in bytes, counted as RFC 9113 §6.5.2 counts. Above: the request is refused.
pub const HEADER_LIST_BYTES_MAX: u32 = 16_384;

/// Streams that a client may have open on one connection: the link. Above: REFUSED_STREAM.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1;

/// Largest message in bytes, either way (dataplane 1.5). Above: the link ends.
pub const MESSAGE_BYTES_MAX: usize = slim_proto::grpc::MESSAGE_BYTES_MAX;

/// Least that `message_bytes` may be set to: a link message of a post-quantum dialer and any header must fit.
pub const MESSAGE_BYTES_LEAST: usize = 16_384;

/// From the open stream to the link message, where the listener does not say otherwise.
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection above `connections` or `connections_per_address` waits for room before its link is answered and
/// ended. Well below the 5 s after which existing clients give up for ever (dataplane 1.7); it is also how often a client
/// that is turned away comes back, for clients do so at once.
pub const WAITING_ROOM_STAY: Duration = Duration::from_secs(2);

/// Connections of one shard that wait for room. Above: closed at accept, and their clients do not come back.
pub const WAITING_ROOM_PER_SHARD: u32 = 4_096;

/// Connections of one address that wait for room, where `connections_per_address` is not more. Above: as for a shard.
pub const WAITING_ROOM_PER_ADDRESS_LEAST: u32 = 16;

/// File descriptors that are not for clients: rings, listeners, the log, and the waiting room of each shard.
pub const DESCRIPTORS_RESERVED: u32 = 64;
pub const DESCRIPTORS_RESERVED_PER_SHARD: u32 = 64;

/// From accept to an OpenChannel request.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages put into receivers' egresses in one turn for what was read, and as many each for what other shards sent and
/// for what was parked. Reached: what is left comes next turn, and everybody is sent to before. The last read or parcel
/// taken in may exceed it.
pub const STAGE_DELIVERIES: u64 = 32_768;

/// Bytes read in one turn. Reached: as with deliveries. What one receiver gets of them fits into one send.
pub const STAGE_RECEIVED_BYTES: usize = 262_144;

/// Time between two looks at deadlines. No deadline is met more exactly than this.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Parts into which one sweep over the connections is cut, so that a shard with many never pauses for all of them.
pub const SWEEP_PARTS: u32 = 4;

/// Bytes waiting for one receiver from which its publishers get no more credit and their further messages wait. Falls to
/// [`EGRESS_SOFT_BYTES_LEAST`] as what waits for all receivers of the shard grows.
pub const EGRESS_SOFT_BYTES: usize = 1_048_576;
pub const EGRESS_SOFT_BYTES_LEAST: usize = 65_536;
pub const EGRESS_SOFT_BYTES_MAX: usize = 33_554_432;

/// What a pressed receiver must read within [`EGRESS_GRACE`], in bytes; half of the soft mark if that is less. Its
/// publishers go on below half of the soft mark.
pub const EGRESS_LOW_BYTES: usize = EGRESS_SOFT_BYTES / 2;

/// How long a receiver must have taken nothing to be cut when more waits for all receivers than may. Only when an eighth
/// more waits than may, those that took something later are cut as well.
pub const EGRESS_CROWDED_GRACE: Duration = Duration::from_millis(250);

/// Least that `egress_bytes` may be set to.
pub const EGRESS_TOTAL_LEAST: usize = 4_194_304;

/// Least and most that `ingress_bytes_per_second` may be set to.
pub const INGRESS_BYTES_PER_SECOND_LEAST: u64 = 1_024;
pub const INGRESS_BYTES_PER_SECOND_MAX: u64 = 1 << 40;

/// Percent of the memory of the machine, or of the control group if that is less, that the process may have resident.
/// The rest is for the kernel's socket buffers and for others.
pub const MEMORY_PERCENT: usize = 75;

/// Least that `memory` may be set to: rings, buffers and tables of a router that serves a few.
pub const MEMORY_LEAST: usize = 33_554_432;

/// Parts of the memory beyond what the router has when it starts. What waits for receivers, what is parked and what is
/// unfinished may have together 5 of 8; while memory is critical, a quarter of that.
pub const MEMORY_EIGHTHS_EGRESS: usize = 3;
pub const MEMORY_EIGHTHS_PARKED: usize = 1;
pub const MEMORY_EIGHTHS_UNFINISHED: usize = 1;
pub const MEMORY_CRITICAL_DIVISOR: usize = 4;
/// Memory is critical above the first, tight above the second, and roomy again below the third.
pub const MEMORY_EIGHTHS_CRITICAL: usize = 7;
pub const MEMORY_EIGHTHS_HIGH: usize = 6;
pub const MEMORY_EIGHTHS_LOW: usize = 5;
/// A shard that holds this part more than when memory was last looked at has it looked at again.
pub const MEMORY_STEP_DIVISOR: usize = 64;

/// What a connection and a subscription are reckoned to take, in bytes. Only to know what their leaving gives back:
/// what they really take shows in the resident memory.
pub const CONNECTION_BYTES: usize = 4_096;
pub const SUBSCRIPTION_BYTES: usize = 256;

/// Bytes waiting for one receiver that are never exceeded. Above: the message is dropped for this receiver and counted.
/// What can arrive above the soft mark is one message from each publisher, and what was on its way between shards.
pub const EGRESS_HARD_BYTES: usize = 67_108_864;

/// How long a pressed receiver may take to read [`EGRESS_LOW_BYTES`]. After it, what waits is dropped and
/// counted and the receiver is cut.
pub const EGRESS_GRACE: Duration = Duration::from_secs(2);

/// How long a receiver may take for one send, of 256 KB at most, however little waits. After it, it is cut: a window held
/// shut must not hold our memory for ever.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Framed bytes that are made ready for one socket beyond what is being sent. The rest waits unframed, so that
/// acknowledgements can pass it.
pub const EGRESS_READY_BYTES: usize = 262_144;

/// Bytes of one DATA frame that we send: the HTTP/2 default, which every client accepts (RFC 9113 §4.2).
pub const SEND_FRAME_BYTES_MAX: usize = 16_384;

/// Message bytes from which receivers share the message instead of copying it.
pub const SHARE_BYTES_MIN: usize = 32_768;

/// How long the kernel may put off acknowledging what a client sent, hoping to do it with data of ours. Its own choice is
/// 40 ms and more, and clients do not send their next small message before (dataplane 1.5).
pub const TCP_ACK_DELAY: Duration = Duration::from_millis(2);

/// The same for a client that is known to wait for answers and not for acknowledgements: shorter than the kernel's own
/// choice, so that we still learn when no answer comes.
pub const TCP_ACK_DELAY_LONG: Duration = Duration::from_millis(35);

/// Bytes of a message up to the end of its header, which every receiver gets a copy of. Clients send about 500; above,
/// the message is dropped and counted, for a fan-out would multiply it.
pub const HEAD_BYTES_MAX: usize = 65_536;

/// HTTP/2 control bytes (acknowledgements of SETTINGS and PING, window updates) that wait for one socket. Above: the peer
/// asks and does not read; its connection is closed.
pub const CONTROL_BYTES_MAX: usize = 16_384;

/// SubscriptionAcks that wait for one connection. Above: the connection is closed, for it does not read its answers.
pub const ACKS_WAITING_MAX: usize = 65_536;

/// Subscriptions of one connection. Above: answered with an error ack and counted.
pub const SUBSCRIPTIONS_PER_CONNECTION: usize = 65_536;
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 1_048_576;

/// Names and prefixes subscribed to, on all shards. Above: answered with an error ack and counted.
pub const NAMES: usize = 4_194_304;
pub const NAMES_MAX: usize = 1_073_741_824;

/// Subscribes and unsubscribes of one connection that other shards have not all seen. Above: no credit until half of them
/// are settled, so that nobody changes names faster than all shards can follow.
pub const SUBSCRIPTIONS_UNSETTLED_MAX: u32 = 1_024;

/// Names that one shard remembers from other shards' directories, absent ones included. Full: the least used is forgotten.
pub const ROUTE_CACHE_NAMES_MAX: usize = 65_536;

/// Parcels of messages on the way from one shard to one other. Full: they wait at the sender, in order.
pub const MESH_LANE_PARCELS: usize = 16;

/// Message bytes after which a parcel is closed and a new one begun.
pub const MESH_PARCEL_BYTES: usize = 262_144;

/// Message bytes that wait at the sender for one other shard before publishers to it must wait.
pub const MESH_OUTBOX_BYTES: usize = 4_194_304;

/// Batches of control messages on the way from one shard to one other. Full: they wait at the sender, in order.
pub const MESH_CONTROL_BATCHES: usize = 256;

/// How soon a shard tries a full lane again.
pub const MESH_RETRY: Duration = Duration::from_micros(100);

/// Bytes of unfinished messages that one shard holds. Above: the client whose message made it too much is ended, with a
/// status that says so. One connection alone holds [`MESSAGE_BYTES_MAX`] at most.
pub const UNFINISHED_BYTES_PER_SHARD_MAX: usize = 1_073_741_824;

/// Message bytes that one shard holds for publishers that wait, those that have left meanwhile included. Full: the message is dropped and counted.
pub const PARKED_BYTES_PER_SHARD_MAX: usize = 1_073_741_824;

/// Bytes of the chunks into which small messages for one lagging receiver are copied.
pub const WAITING_CHUNK_BYTES: usize = 32_768;

/// Bytes of the chunks into which small messages of a held publisher are copied.
pub const PARKED_CHUNK_BYTES: usize = 32_768;

/// Buffers that a shard keeps for gathering messages below [`SHARE_BYTES_MIN`] that were cut: no more are lent to messages
/// that are never finished.
pub const GATHERING_BUFFERS: usize = 64;

/// Send buffers that a shard keeps for reuse, and the largest that it keeps, in bytes.
pub const POOL_BUFFERS: usize = 1_024;
pub const POOL_BUFFER_BYTES_MAX: usize = 262_144;

/// Log lines about connections that one shard writes in a second. Above: counted and summed up.
pub const LOG_LINES_PER_SECOND: u32 = 20;

/// How long an ended link's connection may take to read its last bytes.
pub const LINGER: Duration = Duration::from_secs(2);

/// How long a connection without a request may stay once the router drains: its request may be on the way.
pub const DRAIN_HANDSHAKE: Duration = Duration::from_secs(1);

/// How long accepting pauses after the process ran out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

// A message that is forwarded must fit below the hard mark even when the soft mark has just not been reached.
const _: () = assert!(EGRESS_HARD_BYTES > EGRESS_SOFT_BYTES_MAX + 2 * MESSAGE_BYTES_MAX);
// A whole message must fit into one parcel's neighbourhood: a parcel is closed after, never in the middle of, a message.
const _: () = assert!(MESH_OUTBOX_BYTES >= MESH_PARCEL_BYTES);
const _: () = assert!(EGRESS_LOW_BYTES < EGRESS_SOFT_BYTES);
