// The official Node library against the REST API; pusher-js listens to what it does.

import assert from "node:assert/strict";
import { Agent } from "node:http";
import test from "node:test";

import { arrivals, connected, heard, library, libraryWith, signedIn, states, subscribed, unique } from "./support.mjs";

const member = (id) => ({ user_id: id, user_info: { name: id } });

/** The body of the answer to a signed GET. */
async function get(path, params) {
  const response = await library.get({ path, params });
  return response.json();
}

/** The error that the library makes of an answer, with the body of that answer. */
async function failure(promise) {
  const error = await promise.then(() => assert.fail("the call succeeded"), (reason) => reason);
  return { status: error.status, body: JSON.parse(error.body) };
}

// --- publishing ---------------------------------------------------------------------------------------------------

test("trigger reaches every channel that it names", async (t) => {
  const pusher = await connected(t);
  const names = Array.from({ length: 100 }, () => unique("many-"));
  const channels = await Promise.all(names.map((name) => subscribed(pusher, name)));
  const inboxes = channels.map((channel) => heard(channel, "posted"));
  const response = await library.trigger(names, "posted", { id: 1 });
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), {});
  for (const inbox of inboxes) assert.deepEqual(await inbox.next(), { id: 1 });
});

test("trigger answers what it is asked about the channels", async (t) => {
  const [open, room] = [unique("open-"), unique("presence-room-")];
  const pusher = await connected(t, { member: member("ada") });
  await subscribed(pusher, open);
  await subscribed(pusher, room);
  const response = await library.trigger([open, room], "posted", "x", { info: "user_count,subscription_count" });
  assert.deepEqual(await response.json(), { channels: { [open]: { subscription_count: 1 }, [room]: { user_count: 1 } } });
});

test("triggerBatch publishes each event to its channel", async (t) => {
  const [one, two] = [await connected(t), await connected(t)];
  const [first, second] = [unique("first-"), unique("second-")];
  const [atFirst, atSecond] = [heard(await subscribed(one, first), "posted"), heard(await subscribed(two, second), "posted")];
  const response = await library.triggerBatch([
    { channel: first, name: "posted", data: { id: 1 } },
    { channel: first, name: "posted", data: { id: 2 }, socket_id: one.connection.socket_id },
    { channel: second, name: "posted", data: "Grüße", info: "subscription_count" },
    { channel: first, name: "posted", data: { id: 3 } },
  ]);
  assert.deepEqual(await response.json(), { batch: [{}, {}, { subscription_count: 1 }, {}] });
  assert.deepEqual([await atFirst.next(), await atFirst.next()], [{ id: 1 }, { id: 3 }]);
  assert.equal(await atSecond.next(), "Grüße");
});

test("events sent one after the other on one connection arrive in that order", async (t) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  const channel = await subscribed(await connected(t), unique("order-"));
  const events = heard(channel, "counted");
  const persistent = libraryWith({ agent });
  const numbers = Array.from({ length: 50 }, (_, number) => number);
  await Promise.all(numbers.map((number) => persistent.trigger(channel.name, "counted", number)));
  for (const number of numbers) assert.equal(await events.next(), number);
});

test("publishing to a channel that nobody is on succeeds", async () => {
  assert.equal((await library.trigger(unique("empty-"), "posted", "x")).status, 200);
});

// --- users --------------------------------------------------------------------------------------------------------

test("sendToUser reaches the connections that signed in as the user", async (t) => {
  const user = { id: unique("user-") };
  const pusher = await connected(t, { user });
  await signedIn(pusher);
  const notices = heard(pusher.user, "notice");
  assert.equal((await library.sendToUser(user.id, "notice", { text: "hello" })).status, 200);
  assert.deepEqual(await notices.next(), { text: "hello" });
});

test("sendToUser to somebody who is not there succeeds", async () => {
  assert.equal((await library.sendToUser(unique("user-"), "notice", "x")).status, 200);
});

test("terminateUserConnections ends a member's connections and nobody else's", async (t) => {
  const [room, doomed] = [unique("presence-room-"), unique("user-")];
  const [desk, phone] = [await connected(t, { member: member(doomed) }), await connected(t, { member: member(doomed) })];
  const witness = await connected(t, { member: member("witness") });
  const onlooker = await connected(t);
  await subscribed(onlooker, unique("news-"));
  await subscribed(desk, room);
  await subscribed(phone, room);
  const left = heard(await subscribed(witness, room), "pusher:member_removed");
  const [atDesk, atPhone, elsewhere] = [states(desk), states(phone), states(onlooker)];
  assert.deepEqual(await (await library.terminateUserConnections(doomed)).json(), {});
  assert.equal((await atDesk.next()).previous, "connected");
  assert.equal((await atPhone.next()).previous, "connected");
  assert.equal((await left.next()).id, doomed);
  assert.deepEqual(elsewhere.drain(), []);
});

test("terminateUserConnections ends the connections that signed in as the user", async (t) => {
  const user = { id: unique("user-") };
  const pusher = await connected(t, { user });
  await signedIn(pusher);
  const changes = states(pusher);
  await library.terminateUserConnections(user.id);
  assert.equal((await changes.next()).previous, "connected");
});

// --- questions ----------------------------------------------------------------------------------------------------

test("get /channels lists the occupied channels", async (t) => {
  const prefix = unique("presence-list-");
  const [busy, quiet] = [`${prefix}-busy`, `${prefix}-quiet`];
  const [one, two] = [await connected(t, { member: member("ada") }), await connected(t, { member: member("bob") })];
  await subscribed(one, busy);
  await subscribed(two, busy);
  await subscribed(two, quiet);
  assert.deepEqual(await get("/channels", { filter_by_prefix: prefix, info: "user_count" }), {
    channels: { [busy]: { user_count: 2 }, [quiet]: { user_count: 1 } },
  });
  assert.deepEqual(await get("/channels", { filter_by_prefix: unique("nobody-") }), { channels: {} });
  assert.ok(busy in (await get("/channels")).channels);
});

test("get /channels/x describes a channel", async (t) => {
  const pusher = await connected(t, { member: member("ada") });
  const [open, room, cache] = [unique("open-"), unique("presence-room-"), unique("cache-price-")];
  for (const name of [open, room, cache]) await subscribed(pusher, name);
  await library.trigger(cache, "priced", { price: 1 });
  assert.deepEqual(await get(`/channels/${open}`), { occupied: true });
  assert.deepEqual(await get(`/channels/${open}`, { info: "subscription_count" }), { occupied: true, subscription_count: 1 });
  assert.deepEqual(await get(`/channels/${room}`, { info: "user_count" }), { occupied: true, user_count: 1 });
  assert.deepEqual(await get(`/channels/${unique("nobody-")}`), { occupied: false });
  const cached = await get(`/channels/${cache}`, { info: "cache" });
  assert.equal(cached.occupied, true);
  assert.ok(cached.cache, "the cached event is described");
});

test("get /channels/x/users lists each member once", async (t) => {
  const room = unique("presence-room-");
  for (const id of ["ada", "bob", "bob"]) await subscribed(await connected(t, { member: member(id) }), room);
  const { users } = await get(`/channels/${room}/users`);
  assert.deepEqual(users.map((user) => user.id).sort(), ["ada", "bob"]);
});

test("get /channels/x/users is an error where there are no users", async (t) => {
  const open = unique("open-");
  await subscribed(await connected(t), open);
  assert.equal((await failure(get(`/channels/${open}/users`))).status, 400);
  assert.equal((await failure(get(`/channels/${unique("presence-nobody-")}/users`))).status, 404);
});

test("a channel's name may hold every character that the library allows", async (t) => {
  const name = `${unique("odd_-=@,.;")}=@,.;Z9`;
  const channel = await subscribed(await connected(t), name);
  const events = heard(channel, "posted");
  await library.trigger(name, "posted", "heard");
  assert.equal(await events.next(), "heard");
  assert.deepEqual(await get(`/channels/${name}`), { occupied: true });
  assert.deepEqual(Object.keys((await get("/channels", { filter_by_prefix: name })).channels), [name]);
});

// --- signatures ---------------------------------------------------------------------------------------------------

test("authorizeChannel signs private and presence subscriptions", async (t) => {
  const pusher = await connected(t, { member: { user_id: "ada", user_info: { "a/b": "ü:🚀" } } });
  await subscribed(pusher, unique("private-x-"));
  const room = await subscribed(pusher, unique("presence-x-"));
  assert.deepEqual(room.members.me, { id: "ada", info: { "a/b": "ü:🚀" } });
});

test("authorizeChannel for one socket is worth nothing to another", async (t) => {
  const [owner, thief] = [await connected(t), await connected(t)];
  const name = unique("private-x-");
  const messages = arrivals(thief, name);
  const errors = heard(thief.connection, "error");
  const { auth } = library.authorizeChannel(owner.connection.socket_id, name);
  thief.send_event("pusher:subscribe", { channel: name, auth });
  assert.equal((await errors.next()).data.code, 4009);
  assert.deepEqual(messages.drain(), []);
});

test("authenticateUser signs users in", async (t) => {
  const user = { id: unique("user-"), user_info: { name: "ü:🚀/" }, watchlist: ["other"] };
  const pusher = await connected(t, { user });
  await signedIn(pusher);
  assert.deepEqual(pusher.user.user_data, user);
});

// --- refusals -----------------------------------------------------------------------------------------------------

test("a wrong secret is refused with 401", async () => {
  const { status, body } = await failure(libraryWith({ secret: "wrong" }).trigger("news", "posted", "x"));
  assert.equal(status, 401);
  assert.deepEqual(body, { error: "Authentication signature invalid." });
});

test("an unknown app is refused with 404", async () => {
  const { status, body } = await failure(libraryWith({ appId: "404" }).trigger("news", "posted", "x"));
  assert.equal(status, 404);
  assert.deepEqual(body, { error: "No matching application for ID [404]." });
});

test("a body over the limit is refused with 413", async () => {
  assert.equal((await failure(library.trigger("news", "posted", "x".repeat(10_001)))).status, 413);
});
