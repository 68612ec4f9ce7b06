// The hook of a page: `values` follow the server, `store` posts the page's changes, and `relay` brings changes of an
// open socket to the cookie. hook.d.ts documents the methods and events. Comment lines are not served.

const SHORTEST = 250, LONGEST = 30_000; // milliseconds
const SILENCE = 2.5; // intervals of heartbeats without an event, after which a stream is lost
const ANSWER = 1_500; // milliseconds in which the leading tab must answer
const NAMES = 64, UNITS = 5_000; // in a POST: the server takes 64 names and 16 KiB; a UTF-16 unit has at most 3 bytes

export const connect = (options) => new LayeredSession(options);

class Backoff {
  failures = 0;
  timer;

  constructor(run) {
    this.run = run;
  }

  // `onLine` is wrong behind some virtual networks, so `onLine` makes a wait longer and never prevents an attempt.
  wait() {
    this.#arm(navigator.onLine === false ? LONGEST : Math.min(LONGEST, SHORTEST * 2 ** this.failures));
    this.failures++;
  }

  // Shortens the wait, but not to zero: a page that resumes at each conflict must not spin.
  resume() {
    this.failures = 0;
    if (!this.timer) return this.run();
    this.#arm(SHORTEST);
    this.failures++;
  }

  // Full jitter: after an outage of the server, the pages must not come back all at once.
  #arm(most) {
    this.stop();
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.run();
    }, Math.random() * most);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}

// Calls `bark` after a silence of `patience` milliseconds. After a machine's sleep the timers run late, so `look`
// compares clock times.
class Watchdog {
  #bark;
  #since;
  #patience;
  #timer;

  constructor(bark) {
    this.#bark = bark;
  }

  hears(patience = this.#patience) {
    this.stop();
    this.#patience = patience;
    this.#since = Date.now();
    this.#timer = setTimeout(() => this.#bark(), patience);
  }

  look() {
    if (this.#timer && Date.now() - this.#since >= this.#patience) {
      this.stop();
      this.#bark();
    }
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

class LayeredSession extends EventTarget {
  values = new Map();
  #url;
  #credentials; // the `credentials` option of `fetch`
  #token; // the newest relay token, which holds all changes that the cookie lacks
  #order; // the newest turn token: a sign-in, a renewal or the removal of the cookie
  #events; // the `events` option: whether the hook opens a stream
  #waiting = new Map(); // name to JSON text; a Map, since an object would treat `__proto__` as special
  #inFlight = new Set(); // the batches without an answer yet: several only when the page is left
  #posting = new Backoff(() => this.#pump());
  #conflict = false; // whether values wait for the cookie of another session
  #user; // the mark of the user whose values wait
  #listening = new Backoff(() => this.#listen());
  #source; // the EventSource
  #session; // the mark of the session of `values`: empty without a session, undefined before a `state` event
  #interval = 15_000; // milliseconds between heartbeats
  #silence = new Watchdog(() => this.#silent());
  #begunAt = 0; // the time at which the last stream was opened
  #again = false; // whether a session may have begun while a stream was being opened
  #name; // the name of the channel and of the lock
  #channel; // the channel to other tabs
  #shares = Boolean(navigator.locks); // whether tabs share a stream: locks need a secure context
  #candidacy; // the request for the lock
  #leads = false; // whether this tab has the lock, and passes events on
  #term = 0; // the term of the newest leader: a former leader may not know yet that it lost the lock
  #turns = 0; // the number of session changes of the browser
  #toldAt = 0; // the time of this tab's last message `begun`
  #asked = false; // whether an answer of the leading tab is outstanding
  #missed = []; // messages of the leading tab while this tab's own state is on its way
  #end = new AbortController();

  constructor({ url, events = true, credentials = 'same-origin' }) {
    super();
    this.#url = url.replace(/\/$/, '');
    this.#credentials = credentials;
    // Resolved, since pages may write one address in several ways. Streams with different credentials belong to
    // different sessions.
    this.#name = `layered-session ${new URL(this.#url || '/', document.baseURI)} ${credentials}`;
    this.#events = events;
    const on = (target, types, listener) => {
      for (const type of types) target.addEventListener(type, listener, { signal: this.#end.signal });
    };
    on(globalThis, ['online', 'focus'], () => this.#look());
    // The browser may be wrong about `offline`: the next attempt shows the truth.
    on(globalThis, ['offline'], () => {
      if (!this.#source && this.#session === undefined) return;
      this.#hangUp();
      this.#listening.resume();
      this.#emit('lost', null);
    });
    on(globalThis, ['pagehide'], () => {
      this.#flush();
      this.#leave(); // an open stream would keep the page out of the back/forward cache
    });
    on(globalThis, ['pageshow'], ({ persisted }) => {
      if (!persisted) return;
      this.#join();
      // This tab missed the turns of other tabs. A stream tells the present session; a hook without a stream assumes a
      // turn.
      this.#events ? this.#posting.resume() : this.#turn();
    });
    on(document, ['visibilitychange'], () => {
      if (!document.hidden) this.#look();
      else if (!this.#shares) this.#hangUp();
    });
    this.#join();
  }

  // Encodes all values first: a value that JSON can't encode throws before any value changes.
  store(values) {
    const encoded = Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]);
    for (const [name, json] of encoded) if (json === undefined) throw new TypeError(`not JSON: ${name}`);
    for (const [name, json] of encoded) this.#waiting.set(name, json);
    this.#pump();
  }

  relay(token) {
    if (token.startsWith('t.')) this.#order = token;
    else this.#token = token;
    // After a conflict the token belongs to the new session, and brings the cookie for which the values wait.
    this.#conflict ? this.#posting.resume() : this.#pump();
  }

  resume() {
    this.#posting.resume();
    this.#begun();
  }

  close() {
    this.#end.abort();
    this.#posting.stop();
    this.#leave();
  }

  #emit(type, detail) {
    if (!this.#closed) this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  get #closed() {
    return this.#end.signal.aborted;
  }

  // ---- events of the server

  // Every tab gets its first state from a stream of its own, with its own cookie. Then the leading tab keeps its
  // stream, and passes the events on to the other tabs: over HTTP/1.1 a browser opens six connections to a host, for
  // all tabs together.
  #listen() {
    if (!this.#events || this.#closed || !this.#channel) return;
    if (document.hidden && !this.#shares) return;
    this.#hangUp();
    const withCredentials = this.#credentials === 'include';
    const source = (this.#source = new EventSource(`${this.#url}/events`, { withCredentials }));
    this.#begunAt = Date.now();
    this.#silence.hears(this.#interval * SILENCE);
    for (const type of ['state', 'set', 'removed', 'relay', 'closed', 'heartbeat']) {
      source.addEventListener(type, (event) => {
        if (source === this.#source) this.#hear(type, JSON.parse(event.data));
      });
    }
    // An EventSource by itself retries without backoff, and does not retry after an answer that is no stream.
    source.onerror = () => {
      if (source === this.#source) this.#lose(source.readyState === 2);
    };
  }

  #hear(type, data) {
    if (type === 'state') {
      this.#session = data.session;
      this.#interval = data.heartbeat;
      this.#meet(data.user);
    }
    this.#silence.hears(this.#interval * SILENCE);
    if (type === 'relay') return this.relay(data);
    if (this.#leads) this.#say(type, data);
    if (type === 'state' && this.#shares && !this.#leads) this.#follow(data);
    else this.#take(type, data);
  }

  #take(type, data) {
    if (type === 'state') this.#state(data);
    else if (type === 'set') this.#change(Object.entries(data));
    else if (type === 'removed') this.#change(data.map((name) => [name]));
    else if (type === 'closed') {
      // The next user of the page must not see values of the ended session.
      if (data !== 'shutdown') this.#replace({});
      this.#emit('closed', { reason: data });
      this.#lose();
    }
  }

  #meet(user) {
    this.#user ??= user;
    if (user === this.#user) return;
    this.#user = user;
    if (this.#waiting.size) this.#giveUp(this.#waiting);
  }

  #state({ values }) {
    this.#replace(values);
    if (this.#again) this.#renew();
    if (this.#conflict) this.#posting.resume();
  }

  #hangUp() {
    this.#source?.close();
    this.#source = this.#session = undefined;
    this.#silence.stop();
    this.#missed = [];
    this.#again = false;
  }

  #retry() {
    if (this.#closed) return;
    if (Date.now() - this.#begunAt > LONGEST) this.#listening.failures = 0;
    this.#hangUp();
    this.#listening.wait();
  }

  async #lose(refused) {
    if (this.#leads) this.#say('lost');
    this.#retry();
    const reason = refused ? await this.#reason() : null;
    if (!this.#closed && this.#session === undefined) this.#emit('lost', reason);
  }

  // Fetches the reason of a failure: an EventSource does not tell the reason.
  async #reason() {
    const stop = new AbortController();
    try {
      const headers = { accept: 'text/event-stream' }, { signal } = stop, credentials = this.#credentials;
      const answer = await fetch(`${this.#url}/events`, { headers, signal, credentials });
      if (answer.ok) return null;
      const { code, message } = await answer.json();
      return { code, message };
    } catch {
      return null;
    } finally {
      stop.abort();
    }
  }

  #silent() {
    if (this.#source) this.#lose();
    else if (this.#asked) this.#stand(true);
    else this.#ask();
  }

  // Measures the silence by the clock: the timers of a frozen or hidden page fire late, or not at all.
  #look() {
    this.#posting.resume();
    this.#silence.look();
    // A tab that was closed before the answer to its first store could not send `begun`, so this tab looks for a
    // session.
    if (this.#session === '' && Date.now() - this.#begunAt > ANSWER) return this.#renew();
    if (this.#source) return;
    if (this.#session === undefined) this.#listening.resume();
    else this.#ask();
  }

  #replace(values) {
    const gone = [...this.values.keys()].filter((name) => !Object.hasOwn(values, name));
    this.#change([...gone.map((name) => [name]), ...Object.entries(values)]);
  }

  #change(entries) {
    for (const [name, value] of entries) value === undefined ? this.values.delete(name) : this.values.set(name, value);
    this.#emit('change', { names: entries.map(([name]) => name) });
  }

  // Opens another stream in every tab: the stream of a visitor does not see a session that has begun since.
  #begun() {
    // Limited in rate: pages that resume at `begun` would call each other without end.
    if (Date.now() - this.#toldAt >= SHORTEST) {
      this.#toldAt = Date.now();
      this.#say('begun');
    }
    this.#renew();
  }

  // The browser has another session, or none: values of the former session must not be shown, and its tokens must not
  // be posted.
  #turn() {
    this.#turns++;
    this.#token = this.#order = undefined;
    this.#conflict = false;
    // Without a stream the hook does not learn the user of the new session, so no value of the former user is kept.
    if (!this.#events && this.#waiting.size) this.#giveUp(this.#waiting);
    this.#replace({});
    this.#hangUp();
    this.#listening.resume();
    this.#emit('turned');
  }

  #renew() {
    if (this.#session) return;
    if ((this.#again = this.#source && this.#session === undefined)) return;
    this.#hangUp();
    this.#listening.resume();
  }

  // ---- between tabs

  #join() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#stand();
    this.#listen();
  }

  #leave() {
    this.#hangUp();
    this.#listening.stop();
    this.#resign();
    this.#channel?.close();
    this.#channel = undefined;
  }

  #say(type, data) {
    this.#channel?.postMessage({ type, data, session: this.#session, user: this.#user, term: this.#term });
  }

  #heard({ type, data, session, user, term }) {
    const agrees = session === this.#session && user === this.#user;
    if (type === 'turned') this.#turn();
    else if (type === 'begun') {
      if (!this.#session) this.#emit('begun', null);
      if (this.#events) this.#renew();
    } else if (type === 'ask') {
      if (this.#leads) this.#answer(agrees);
    } else if (this.#leads) {
      if (term > this.#term) this.#yield();
    } else if (term >= this.#term) {
      this.#term = term;
      if (this.#source) this.#session ?? this.#missed.push({ type, data, session, user });
      else if (this.#session !== undefined) this.#led(type, data, user, agrees);
    }
  }

  #led(type, data, user, agrees) {
    this.#asked = false;
    this.#silence.hears(this.#interval * SILENCE);
    if (type === 'soon') return;
    if (type === 'lost') return this.#lose(); // the leading tab may not know its user yet
    if (agrees) return this.#take(type, data);
    // This user must not see values of the former user.
    if (user !== this.#user) this.#replace({});
    this.#lose();
  }

  // The asking tab has just got its state, so its marks are newer than the marks of this tab's long stream. A frozen
  // page hears the channel while its timers and its stream stand still: `look` measures the silence by the clock.
  #answer(agrees) {
    this.#silence.look();
    if (!this.#source) this.#listening.resume();
    else if (agrees) this.#say('here');
    else if (this.#session === undefined) this.#say('soon');
    else this.#retry();
  }

  // Applies this tab's own state first, and then the messages that arrived while the state was on its way.
  #follow(state) {
    const missed = this.#missed;
    this.#source.close();
    this.#source = undefined;
    this.#missed = [];
    this.#state(state);
    for (const { type, data, session, user } of missed) {
      if (session === this.#session && user === this.#user) this.#take(type, data);
    }
    if (this.#session !== undefined) this.#ask();
  }

  #ask() {
    this.#asked = true;
    this.#silence.hears(ANSWER * (1 + Math.random())); // random, so that one tab steals the lock, and not all
    this.#say('ask');
  }

  // The holder of the lock leads. A blocked page keeps the lock and does not answer, so another tab may steal the lock.
  #stand(steal) {
    if (!this.#events || !this.#shares) return;
    this.#resign();
    const { signal } = (this.#candidacy = new AbortController());
    const lead = () => {
      if (signal.aborted) return;
      this.#leads = true;
      this.#term = Math.max(Date.now(), this.#term + 1);
      this.#say('soon');
      if (!this.#source && !this.#listening.timer) this.#listen();
      return new Promise((release) => signal.addEventListener('abort', release));
    };
    navigator.locks.request(this.#name, steal ? { steal } : { signal }, lead).catch(() => {
      if (signal.aborted) return;
      if (this.#leads) return this.#yield();
      this.#shares = false; // the browser has no locks for this page
      if (!this.#source) this.#retry();
    });
  }

  // Another tab has stolen the lock, since this tab did not answer. This tab waits for the lock again.
  #yield() {
    this.#stand();
    this.#retry();
  }

  #resign() {
    this.#candidacy?.abort();
    this.#leads = false;
  }

  // ---- posts of the page

  // Sends one POST at a time, so that the server gets the changes in the order of the calls.
  #pump() {
    if (this.#inFlight.size || this.#posting.timer || this.#closed) return;
    const next = this.#next();
    if (next) this.#post(next);
  }

  // Sends all that waits at once when the page is left: changes in a wrong order are better than lost changes.
  #flush() {
    for (let next; (next = this.#next()); ) this.#post(next);
  }

  // Picks the turn token (`#order`) first, which holds all changes that a relay token would hold. Then the relay token,
  // which may bring the cookie: without the cookie the values would begin another session. Then values.
  #next() {
    if (this.#end.signal.aborted) return;
    const turn = this.#order, token = turn ?? this.#token, batch = new Map(), members = [];
    if (turn) this.#order = undefined;
    else this.#token = undefined;
    if (token !== undefined) return { token, batch, turn, body: JSON.stringify({ $relay: token }) };

    let room = UNITS;
    for (const [name, json] of this.#waiting) {
      const member = `${JSON.stringify(name)}:${json}`;
      room -= member.length;
      if (batch.size === NAMES || (batch.size && room < 0)) break;
      members.push(member);
      batch.set(name, json);
      this.#waiting.delete(name);
      for (const older of this.#inFlight) older.delete(name); // an older value must not be sent after this value
    }
    if (batch.size) return { batch, body: `{${members}}` };
  }

  async #post({ token, batch, turn, body }) {
    const headers = { 'content-type': 'application/json' }, user = this.#user, turns = this.#turns;
    if (user !== undefined) headers['session-user'] = user;
    let status = 0, answer;
    this.#inFlight.add(batch);
    try {
      // A browser allows 64 KiB for all `keepalive` requests together.
      const keepalive = body.length < 2e4, credentials = this.#credentials;
      const response = await fetch(this.#url || '/', { method: 'POST', keepalive, headers, body, credentials });
      status = response.status;
      answer = await response.json();
    } catch {
      // There is no answer, or the answer is a proxy's without JSON: the status decides.
    }
    this.#inFlight.delete(batch);
    if (this.#end.signal.aborted) return;
    if (turn) this.#turned(token, status, Object(answer));
    else {
      // Values of one user are not kept for the next user, and a token of a former session is not kept.
      const kept = turns === this.#turns, same = user === undefined ? kept : user === this.#user;
      if (same || status === 200) this.#settle(kept ? token : undefined, batch, status, Object(answer));
      else if (batch.size) this.#giveUp(batch);
    }
    this.#pump();
  }

  #turned(token, status, { stored, code = `http_${status}`, message = '' }) {
    const refusal = { code, message, names: [] };
    if (status === 200 && Array.isArray(stored)) {
      this.#posting.failures = 0;
      this.#say('turned');
      this.#turn();
    } else if (status === 409) {
      this.#turn();
      this.#emit('conflict', refusal);
    } else if (status < 400 || status === 408 || status === 429 || status > 499) {
      this.#order ??= token;
      this.#posting.wait();
    } else this.#emit('refused', refusal);
  }

  // Drops values and tells the page: values of one user must not be stored for the next user.
  #giveUp(batch, code = 'user_changed', message = '', names = [...batch.keys()]) {
    for (const name of names) batch.delete(name);
    this.#emit('refused', { code, message, names });
  }

  #settle(token, batch, status, { stored, ignored = [], code = `http_${status}`, message = '', names }) {
    names = Array.isArray(names) ? names : [];
    if (status === 200 && Array.isArray(stored)) {
      this.#posting.failures = 0;
      this.#conflict = false;
      if (stored.length) this.#begun();
      this.#emit('stored', { stored, ignored });
    } else if (status === 409 && code !== 'user_changed') {
      // The token belongs to another session and is dropped. The values are kept, since a new cookie may come.
      this.#keep(batch);
      if (batch.size) {
        this.#conflict = true;
        this.#posting.wait();
      }
      this.#emit('conflict', { code, message, names });
    } else if (status < 400 || status === 408 || status === 429 || status > 499) {
      // Tried again. A 200 that does not come from the writeback counts too, such as the login page behind a redirect.
      this.#keep(batch, token);
      this.#posting.wait();
    } else {
      // One POST may hold values of several calls. The refused names are given up, or all names if the refusal has
      // none.
      names = names.filter((name) => batch.has(name));
      this.#giveUp(batch, code, message, names.length ? names : undefined);
      this.#keep(batch);
    }
  }

  // Puts a batch back to wait. Newer waiting values win over values of the batch.
  #keep(batch, token) {
    this.#token ??= token;
    this.#waiting = new Map([...batch, ...this.#waiting]);
  }
}
