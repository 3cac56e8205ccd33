// What stays in this browser: settings as JSON in localStorage, conversations in IndexedDB.

const prefix = "puna.";
const unkept = new Map(); // what the browser would not keep: there until the page is left

/** The text kept under `name`, or null. */
export function recall(name) {
  if (unkept.has(name)) return unkept.get(name);
  try {
    return localStorage.getItem(prefix + name);
  } catch {
    return null; // the browser keeps nothing for this page
  }
}

/** Keep `text` under `name`, where the browser allows it and has room. */
export function remember(name, text) {
  unkept.delete(name);
  try {
    localStorage.setItem(prefix + name, text);
  } catch {
    unkept.set(name, text);
  }
}

/** The settings kept under `name`, over `defaults`. */
export function kept(name, defaults) {
  try {
    return { ...defaults, ...JSON.parse(recall(name) ?? "{}") };
  } catch {
    return { ...defaults };
  }
}

export function keep(name, values) {
  remember(name, JSON.stringify(values));
}

const databaseName = "puna";
const table = "conversations";
let database = null;

function opened() {
  database ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(databaseName, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(table, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return database;
}

async function inTable(mode, act) {
  const transaction = (await opened()).transaction(table, mode);
  const request = act(transaction.objectStore(table));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the latest first. */
export async function conversations() {
  const all = await inTable("readonly", (store) => store.getAll());
  return all.sort((one, other) => other.updated - one.updated);
}

export function saveConversation(conversation) {
  return inTable("readwrite", (store) => store.put(conversation));
}

export function deleteConversation(id) {
  return inTable("readwrite", (store) => store.delete(id));
}
