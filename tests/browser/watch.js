// Runs before the page's own scripts, and records the page's traffic. The only change to the traffic: POSTs wait while a
// test holds them.
(() => {
  const watched = { first: null, divisions: [], relays: [], posts: [] };
  Object.defineProperty(window, "watched", { value: watched });

  // The server's text in the page, before any script of the page has run.
  document.addEventListener("readystatechange", () => {
    watched.first ??= Number(document.querySelector("#division")?.value);
  });

  window.WebSocket = class extends window.WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        const message = JSON.parse(data);
        if (message.event === "division") watched.divisions.push(message.id);
        if (message.event === "store_session") watched.relays.push(message);
      });
      // The record belongs to the tab, since the page may answer a close with a reload.
      this.addEventListener("close", ({ code }) => {
        sessionStorage.closes = JSON.stringify([...JSON.parse(sessionStorage.closes ?? "[]"), code]);
      });
    }
  };

  let held = Promise.resolve();
  watched.hold = () => {
    held = new Promise((release) => { watched.release = () => release(); });
  };

  const { fetch } = window;
  window.fetch = async (...given) => {
    const request = new Request(...given);
    if (request.method !== "POST") return fetch(request);
    const post = { path: new URL(request.url).pathname, body: await request.clone().text(), status: null };
    watched.posts.push(post);
    await held;
    try {
      const response = await fetch(request);
      post.status = response.status;
      return response;
    } catch (error) {
      post.status = 0;
      throw error;
    }
  };
})();
