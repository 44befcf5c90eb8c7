// pusher-js against the server: every kind of channel, client events, and users.

import assert from "node:assert/strict";
import test from "node:test";

import {
  Inbox,
  arrivals,
  backend,
  client,
  connected,
  heard,
  library,
  refusals,
  settled,
  signedIn,
  states,
  subscribed,
  unique,
} from "./support.mjs";

const ada = { user_id: "ada", user_info: { name: "Ada", langs: ["en", "fr"], extra: {} } };
const bob = { user_id: "bob", user_info: { name: "Bób" } };

// --- connection ---------------------------------------------------------------------------------------------------

test("connects and is given a socket id", async (t) => {
  const pusher = await connected(t);
  assert.match(pusher.connection.socket_id, /^\d+\.\d+$/);
});

test("gets a pong whenever it asks after a silence", async (t) => {
  const pusher = await connected(t, { activityTimeout: 50, pongTimeout: 20_000 });
  const [pongs, changes] = [heard(pusher, "pusher:pong"), states(pusher)];
  await pongs.next();
  await pongs.next();
  await pongs.next();
  assert.deepEqual(changes.drain(), []);
});

// --- public channels ----------------------------------------------------------------------------------------------

test("hears the events of a public channel", async (t) => {
  const pusher = await connected(t);
  const channel = await subscribed(pusher, unique("news-"));
  const events = heard(channel, "posted");
  const values = [{ title: "a/b", nested: { list: [1, 2.5, null] } }, {}, [], "just text", "Grüße 🚀 \u2028 \"quoted\"", 42, true];
  for (const value of values) {
    await library.trigger(channel.name, "posted", value);
    assert.deepEqual(await events.next(), value);
  }
});

test("hears each channel's events on that channel only", async (t) => {
  const pusher = await connected(t);
  const one = await subscribed(pusher, unique("one-"));
  const two = await subscribed(pusher, unique("two-"));
  const [onOne, onTwo] = [heard(one, "posted"), heard(two, "posted")];
  await library.trigger(one.name, "posted", "first");
  await library.trigger(two.name, "posted", "second");
  assert.equal(await onTwo.next(), "second");
  assert.equal(await onOne.next(), "first");
  assert.deepEqual([...onOne.drain(), ...onTwo.drain()], []);
});

test("subscribes to what was asked for before it was connected", async (t) => {
  const pusher = client({ member: ada });
  t.after(() => pusher.disconnect());
  const channels = ["news-", "private-news-", "presence-news-"].map((prefix) => pusher.subscribe(unique(prefix)));
  await Promise.all(channels.map((channel) => heard(channel, "pusher:subscription_succeeded").next()));
  assert.ok(channels.every((channel) => channel.subscribed));
});

test("does not hear an event that names its socket", async (t) => {
  const [sender, other] = [await connected(t), await connected(t)];
  const name = unique("news-");
  const [own, others] = [heard(await subscribed(sender, name), "posted"), heard(await subscribed(other, name), "posted")];
  await library.trigger(name, "posted", "to others", { socket_id: sender.connection.socket_id });
  await library.trigger(name, "posted", "to all");
  assert.equal(await others.next(), "to others");
  assert.equal(await own.next(), "to all");
});

test("hears nothing after unsubscribing", async (t) => {
  const pusher = await connected(t);
  const name = unique("news-");
  await subscribed(pusher, name);
  const messages = arrivals(pusher, name);
  pusher.unsubscribe(name);
  await settled(pusher);
  await library.trigger(name, "missed", "x");
  await subscribed(pusher, name);
  await library.trigger(name, "posted", "x");
  assert.equal((await messages.next()).event, "pusher_internal:subscription_succeeded");
  assert.equal((await messages.next()).event, "posted");
});

// --- private channels ---------------------------------------------------------------------------------------------

test("joins a private channel with a signature", async (t) => {
  const pusher = await connected(t);
  const channel = await subscribed(pusher, unique("private-news-"));
  const events = heard(channel, "posted");
  await library.trigger(channel.name, "posted", { id: 1 });
  assert.deepEqual(await events.next(), { id: 1 });
});

test("is refused on a private channel with a wrong signature, and stays connected", async (t) => {
  const wrong = (_, callback) => callback(null, { auth: `key:${"0".repeat(64)}` });
  const pusher = await connected(t, { channelAuthorization: { customHandler: wrong } });
  const errors = refusals(pusher);
  const channel = pusher.subscribe(unique("private-news-"));
  assert.deepEqual(await errors.next(), { code: 4009, message: "Connection is unauthorized" });
  assert.equal(channel.subscribed, false);
  await subscribed(pusher, unique("news-"));
});

test("lets a back end authorize over HTTP", async (t) => {
  const { url, token } = await backend(t, { member: ada, user: { id: "ada" } });
  const headers = { Authorization: `Bearer ${token}` };
  const pusher = await connected(t, {
    channelAuthorization: { endpoint: `${url}/broadcasting/auth`, headers },
    userAuthentication: { endpoint: `${url}/broadcasting/user-auth`, headers },
  });
  await subscribed(pusher, unique("private-news-"));
  const room = await subscribed(pusher, unique("presence-room-"));
  assert.deepEqual(room.members.me, { id: "ada", info: ada.user_info });
  await signedIn(pusher);
  assert.deepEqual(pusher.user.user_data, { id: "ada" });
});

// --- presence channels --------------------------------------------------------------------------------------------

test("knows the members of a presence channel", async (t) => {
  const name = unique("presence-room-");
  await subscribed(await connected(t, { member: ada }), name);
  const { members } = await subscribed(await connected(t, { member: bob }), name);
  assert.equal(members.count, 2);
  assert.deepEqual(members.me, { id: "bob", info: bob.user_info });
  assert.deepEqual(members.get("ada"), { id: "ada", info: ada.user_info });
  assert.equal(members.get("nobody"), null);
  const everybody = [];
  members.each((member) => everybody.push(member));
  assert.deepEqual(everybody.map((member) => member.id).sort(), ["ada", "bob"]);
});

test("is told of members who join and leave", async (t) => {
  const name = unique("presence-room-");
  const room = await subscribed(await connected(t, { member: ada }), name);
  const [joined, left] = [heard(room, "pusher:member_added"), heard(room, "pusher:member_removed")];
  const guest = await connected(t, { member: bob });

  await subscribed(guest, name);
  assert.deepEqual(await joined.next(), { id: "bob", info: bob.user_info });
  assert.equal(room.members.count, 2);
  guest.unsubscribe(name);
  assert.deepEqual(await left.next(), { id: "bob", info: bob.user_info });
  assert.equal(room.members.count, 1);

  await subscribed(guest, name);
  assert.equal((await joined.next()).id, "bob");
  guest.disconnect();
  assert.equal((await left.next()).id, "bob");
  assert.equal(room.members.count, 1);
});

test("counts a user with two connections once", async (t) => {
  const name = unique("presence-room-");
  const room = await subscribed(await connected(t, { member: ada }), name);
  const messages = arrivals(room.pusher, name);
  const [desk, phone] = [await connected(t, { member: bob }), await connected(t, { member: bob })];
  await subscribed(desk, name);
  assert.equal((await subscribed(phone, name)).members.count, 2);
  desk.unsubscribe(name);
  await settled(desk);
  await library.trigger(name, "one of two has gone", "x");
  phone.disconnect();
  const told = [await messages.next(), await messages.next(), await messages.next()];
  assert.deepEqual(
    told.map((message) => message.event),
    ["pusher_internal:member_added", "one of two has gone", "pusher_internal:member_removed"],
  );
  assert.equal(room.members.count, 1);
});

test("keeps an id that is a number, and a member without info", async (t) => {
  const name = unique("presence-room-");
  const room = await subscribed(await connected(t, { member: { user_id: 1 } }), name);
  assert.deepEqual(room.members.me, { id: 1, info: null });
  const joined = heard(room, "pusher:member_added");
  await subscribed(await connected(t, { member: { user_id: 2, user_info: { name: "Two" } } }), name);
  assert.deepEqual(await joined.next(), { id: 2, info: { name: "Two" } });
  assert.equal(room.members.count, 2);
});

// --- cache channels -----------------------------------------------------------------------------------------------

const keepsTheLastEvent = (prefix) => async (t) => {
  const name = unique(prefix);
  const first = (await connected(t, { member: ada })).subscribe(name);
  const [misses, live] = [heard(first, "pusher:cache_miss"), heard(first, "priced")];
  await misses.next();
  await library.trigger(name, "priced", { price: 1 });
  await library.trigger(name, "priced", { price: 2 });
  assert.deepEqual([await live.next(), await live.next()], [{ price: 1 }, { price: 2 }]);

  const second = (await connected(t, { member: bob })).subscribe(name);
  const [noMisses, cached] = [heard(second, "pusher:cache_miss"), heard(second, "priced")];
  assert.deepEqual(await cached.next(), { price: 2 });
  await library.trigger(name, "priced", { price: 3 });
  assert.deepEqual(await cached.next(), { price: 3 });
  assert.deepEqual(noMisses.drain(), []);
};

test("hears the last event of a cache channel, or of a miss", keepsTheLastEvent("cache-price-"));
test("hears the last event of a private cache channel, or of a miss", keepsTheLastEvent("private-cache-price-"));
test("hears the last event of a presence cache channel, or of a miss", keepsTheLastEvent("presence-cache-price-"));

// --- encrypted channels -------------------------------------------------------------------------------------------

test("decrypts what the server cannot read", async (t) => {
  const pusher = await connected(t);
  const channel = await subscribed(pusher, unique("private-encrypted-chat-"));
  const [events, messages] = [heard(channel, "said"), arrivals(pusher, channel.name)];
  await library.trigger(channel.name, "said", { words: "nobody else must know: äöü 🚀" });
  assert.deepEqual(await events.next(), { words: "nobody else must know: äöü 🚀" });
  assert.deepEqual(Object.keys((await messages.next()).data), ["nonce", "ciphertext"]);
});

// --- client events ------------------------------------------------------------------------------------------------

test("sends client events to the other subscribers of a private channel", async (t) => {
  const name = unique("private-chat-");
  const [one, two] = [await subscribed(await connected(t), name), await subscribed(await connected(t), name)];
  const [atOne, atTwo] = [heard(one, "client-typed"), heard(two, "client-typed")];
  one.trigger("client-typed", { text: "Grüße 🚀", empty: {}, list: [] });
  assert.deepEqual(await atTwo.next(), { text: "Grüße 🚀", empty: {}, list: [] });
  two.trigger("client-typed", { text: "back" });
  assert.deepEqual(await atOne.next(), { text: "back" }, "the sender must not hear its own event");
  assert.deepEqual(atTwo.drain(), []);
});

test("names the sender of a client event on a presence channel", async (t) => {
  const name = unique("presence-chat-");
  const sender = await subscribed(await connected(t, { member: ada }), name);
  const receiver = await subscribed(await connected(t, { member: bob }), name);
  const events = new Inbox("client-typed");
  receiver.bind("client-typed", (data, metadata) => events.put({ data, metadata }));
  sender.trigger("client-typed", { text: "hello", user_id: "forged" });
  assert.deepEqual(await events.next(), { data: { text: "hello", user_id: "forged" }, metadata: { user_id: "ada" } });
});

test("may not send client events on a public channel", async (t) => {
  const pusher = await connected(t);
  const errors = refusals(pusher);
  (await subscribed(pusher, unique("news-"))).trigger("client-typed", {});
  const message = "Client events are only allowed on private and presence channels.";
  assert.deepEqual(await errors.next(), { code: 4009, message });
});

test("may not send client events to a channel that it is not on", async (t) => {
  const name = unique("private-chat-");
  const member = await subscribed(await connected(t), name);
  const outsider = await connected(t);
  const [errors, events] = [refusals(outsider), heard(member, "client-typed")];
  outsider.send_event("client-typed", {}, name);
  const message = "The client is not a member of the specified channel.";
  assert.deepEqual(await errors.next(), { code: 4009, message });
  await library.trigger(name, "client-typed", "by the back end");
  assert.equal(await events.next(), "by the back end");
});

// --- users --------------------------------------------------------------------------------------------------------

test("hears what is sent to its user, on each of the user's connections", async (t) => {
  const user = { id: unique("user-"), user_info: { name: "Ada" } };
  const [desk, phone] = [await connected(t, { user }), await connected(t, { user })];
  await signedIn(desk);
  await signedIn(phone);
  assert.deepEqual(desk.user.user_data, user);
  const [atDesk, atPhone] = [heard(desk.user, "notice"), heard(phone.user, "notice")];
  await library.sendToUser(user.id, "notice", { text: "hello" });
  assert.deepEqual([await atDesk.next(), await atPhone.next()], [{ text: "hello" }, { text: "hello" }]);
});

test("does not hear what is sent to another user", async (t) => {
  const [adaUser, bobUser] = [{ id: unique("ada-") }, { id: unique("bob-") }];
  const [one, two] = [await connected(t, { user: adaUser }), await connected(t, { user: bobUser })];
  await signedIn(one);
  await signedIn(two);
  const [atOne, atTwo] = [heard(one.user, "notice"), heard(two.user, "notice")];
  await library.sendToUser(adaUser.id, "notice", "for Ada");
  await library.sendToUser(bobUser.id, "notice", "for Bob");
  assert.equal(await atOne.next(), "for Ada");
  assert.equal(await atTwo.next(), "for Bob");
});

test("cannot listen in on another user by subscribing to the user's channel", async (t) => {
  const user = { id: unique("ada-") };
  const [victim, spy] = [await connected(t, { user }), await connected(t)];
  await signedIn(victim);
  const channel = `#server-to-user-${user.id}`;
  const [notices, spied, errors] = [heard(victim.user, "notice"), arrivals(spy, channel), refusals(spy)];
  spy.send_event("pusher:subscribe", { auth: "", channel });
  assert.equal((await errors.next()).code, 4009);
  const lure = await subscribed(spy, unique("news-"));
  const afterwards = heard(lure, "posted");
  await library.sendToUser(user.id, "notice", "private");
  await notices.next();
  await library.trigger(lure.name, "posted", "x");
  await afterwards.next();
  assert.deepEqual(spied.drain(), []);
});

test("is refused for good when it signs in with a wrong signature", async (t) => {
  const wrong = (_, callback) => callback(null, { auth: `key:${"0".repeat(64)}`, user_data: '{"id":"ada"}' });
  const pusher = await connected(t, { userAuthentication: { customHandler: wrong } });
  const [errors, changes] = [refusals(pusher), states(pusher)];
  pusher.signin();
  assert.equal((await errors.next()).code, 4009);
  assert.equal((await changes.next()).current, "disconnected");
});
