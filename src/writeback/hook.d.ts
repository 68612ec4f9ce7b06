/** Types of `hook.js`, the browser's side of a `SessionWriteback`. */

/** Opens a page's connection to its session. One is enough for a page. */
export function connect(options: Options): LayeredSession;

export interface Options {
  /** Where the writeback is mounted: `/session`, or `https://api.shop.example/session` with `credentials: 'include'`. */
  url: string;
  /**
   * `'include'` for a writeback on another origin, whose requests then carry its cookies. The server lists the page's
   * origin in `public_origins` and answers CORS, as the documentation of `SessionWriteback` shows. `'same-origin'` unless
   * told otherwise.
   */
  credentials?: 'same-origin' | 'include';
  /**
   * `false` for a page that is told of changes in another way, such as a socket of its own. `values` stay empty then, and
   * the hook does not know who is signed in: when that changes otherwise than by an order, close it and connect anew.
   */
  events?: boolean;
}

export interface LayeredSession extends EventTarget {
  /**
   * What the page may read, by name, as the server last said. Empty before the first `change`, and once the page has
   * heard of the end of its session, a shutdown of the server excepted. A value that the page stores is here once the server has taken it.
   */
  readonly values: ReadonlyMap<string, unknown>;

  /**
   * Posts values: one request at a time, the newest of each name, again and later each time until the server has taken
   * or refused them. They survive being offline and the end of a session, but not a reload, and not another user: what
   * one has said is never stored for the next.
   *
   * @throws {TypeError} where a value is no JSON; then none is stored.
   */
  store(values: Record<string, unknown>): void;

  /**
   * Posts a relay token that came over a connection of the page's own. Tokens on the event stream are posted unasked.
   *
   * An order (a sign-in or a renewal that the server asks for on a socket, or the removal of the cookie) is posted before
   * anything else. Keep no order: it is worth a login for a minute.
   */
  relay(token: string): void;

  /**
   * Tries again now what waits, also where the browser says that it is offline, and opens the event stream anew if it is
   * not a session's, here and in other tabs: for a page whose own request (a form, a sign-in) may have begun a session.
   */
  resume(): void;

  /** Gives up what waits, closes the stream and announces nothing more. */
  close(): void;

  addEventListener<Type extends keyof LayeredSessionEvents>(
    type: Type,
    listener: (event: LayeredSessionEvents[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface LayeredSessionEvents {
  /** These may have changed: `values` has them as they are now, or not at all. */
  change: CustomEvent<{ names: string[] }>;
  /** The session is over, and `values` is empty unless it was a shutdown. The hook connects again by itself. */
  closed: CustomEvent<{ reason: 'renewed' | 'destroyed' | 'expired' | 'revoked' | 'shutdown' }>;
  /**
   * The stream of events broke off, in this tab or in the tab that holds the stream for all, and is opened again. Until
   * the next `change` the values may be old. The detail is the server's reason where the server refuses the stream:
   * `cross_site` behind a proxy that changes `Host`.
   */
  lost: CustomEvent<{ code: string; message: string } | null>;
  /**
   * Another tab may have begun a session, by a store or by `resume`. A socket that was opened without a session does not
   * see the session: open such a socket anew, and don't call `resume` for this event. `values` follow without help.
   * A tab that is closed before the answer to its first store can't tell the others: they notice at the next focus.
   */
  begun: CustomEvent<null>;
  /** The server has taken these; `$relay` stands for a relay token. It has no use for those that are `ignored`. */
  stored: CustomEvent<{ stored: string[]; ignored: string[] }>;
  /**
   * The browser is in another session, or in none: an order was carried out, or refused for good, in this tab or in
   * another. `values` is empty until the server says what there is now. Open sockets of the page's own anew.
   */
  turned: CustomEvent<null>;
  /** The session had ended or was renewed meanwhile. Values are kept and tried again; a relay token is not. */
  conflict: CustomEvent<Refusal>;
  /** The values of these names are given up: the server's word, or `user_changed`. */
  refused: CustomEvent<Refusal>;
}

/** The server's words; `code` is stable, and `http_…` where the answer was not the writeback's. */
export interface Refusal {
  code: string;
  message: string;
  names: string[];
}
