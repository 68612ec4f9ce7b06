// Gives tests the hook, and a record of the hook's announcements.
import { connect } from '/session/hook.js';

globalThis.hook = connect({ url: '/session' });
globalThis.told = [];
for (const type of ['change', 'stored', 'conflict', 'refused', 'closed', 'lost']) {
  hook.addEventListener(type, ({ detail }) => told.push([type, detail]));
}
hook.addEventListener('change', () => (document.body.dataset.connection = 'open'));
globalThis.values = () => Object.fromEntries(hook.values);
