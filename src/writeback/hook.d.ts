/** The types of `hook.js`, the script with which a page uses a `SessionWriteback`. */

/** Connects a page to its session. One connection is enough for a page. */
export function connect(options: Options): LayeredSession;

export interface Options {
  /** The address of the writeback: `/session`, or `https://api.shop.example/session` with `credentials: 'include'`. */
  url: string;
  /**
   * `'include'` for a writeback on another origin: the hook's requests then carry the cookies of that origin. The server
   * must list the page's origin in `public_origins` and answer CORS, as the documentation of `SessionWriteback` shows. The
   * default is `'same-origin'`.
   */
  credentials?: 'same-origin' | 'include';
  /**
   * `false` for a page that learns of changes in another way, as over a socket of its own. Then `values` stays empty, and
   * the hook does not know the signed-in user. After a sign-in or sign-out without a token for `relay`, call `close`, and
   * call `connect` again. The default is `true`.
   */
  events?: boolean;
}

export interface LayeredSession extends EventTarget {
  /**
   * The values that the page may read, by name, as the server last sent the values. The map is empty before the first
   * `change`, and after the end of the session, but not after a shutdown of the server. A value that the page stores is in
   * the map only after the server has taken the value.
   */
  readonly values: ReadonlyMap<string, unknown>;

  /**
   * Posts values in one request at a time, with the newest value of each name. The hook repeats a failed request, with
   * growing pauses, until the server has taken or refused the values. Waiting values outlive a lost connection and the end
   * of a session, but not a reload. After a change of the user, the hook drops the waiting values: the values of one user
   * are never stored for another user.
   *
   * @throws {TypeError} if a value can't be encoded as JSON. Then the hook posts none of the values.
   */
  store(values: Record<string, unknown>): void;

  /**
   * Posts a token that came over a connection of the page's own: from `Session::relay`, `SignIn::by_page` or
   * `RenewByPage::token` on the server. The hook itself posts the tokens of the event stream.
   *
   * A token with a sign-in, a renewal or the removal of the cookie goes before all else that waits. Don't keep such a
   * token: for a minute the token is worth a login.
   */
  relay(token: string): void;

  /**
   * Posts soon all that waits, even if the browser reports that it is offline. If the event stream belongs to no session,
   * opens another event stream, in this tab and in other tabs. For a page whose own request, such as a form or a sign-in,
   * may have begun a session.
   */
  resume(): void;

  /** Drops all that waits, closes the event stream, and dispatches no more events. */
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
  /** The values of these names may have changed. `values` has the present value of each name, or no value. */
  change: CustomEvent<{ names: string[] }>;
  /** The session is over, and `values` is empty, except after a shutdown. The hook connects again by itself. */
  closed: CustomEvent<{ reason: 'renewed' | 'destroyed' | 'expired' | 'revoked' | 'shutdown' }>;
  /**
   * The event stream ended, in this tab or in the tab that has the stream for all tabs. The hook opens the stream again.
   * Until the next `change`, `values` may be out of date. If the server refuses the stream, `detail` is the server's
   * reason, such as `cross_site` behind a proxy that changes `Host`; else `detail` is `null`.
   */
  lost: CustomEvent<{ code: string; message: string } | null>;
  /**
   * Another tab may have begun a session, by a store or by `resume`. A socket that was opened without a session does not
   * see the session: open such a socket again, and don't call `resume` at this event. The hook updates `values` by itself.
   * A tab that is closed before the answer to its first `store` sends no event to the other tabs: each of the other tabs
   * looks for a session when the tab gets the focus.
   */
  begun: CustomEvent<null>;
  /**
   * The server has taken the values of the names in `stored`, where `$relay` stands for a token. The server does not
   * allow the names in `ignored`, and ignores the values (`ignore_unknown`).
   */
  stored: CustomEvent<{ stored: string[]; ignored: string[] }>;
  /**
   * The browser is in another session, or in none: in this tab or in another tab, the server has carried out a token with
   * a sign-in, a renewal or the removal of the cookie, or has refused such a token for good. `values` is empty until the
   * server sends the present values. Open the page's own sockets again.
   */
  turned: CustomEvent<null>;
  /** The session had ended or was renewed before the POST. The hook posts the values again later, but drops a token. */
  conflict: CustomEvent<Refusal>;
  /** The hook drops the values of these names: the server refused the values, or the user has changed (`user_changed`). */
  refused: CustomEvent<Refusal>;
}

/** The server's refusal. `code` is stable, or `http_` with the status if the answer does not come from the writeback. */
export interface Refusal {
  code: string;
  message: string;
  names: string[];
}
