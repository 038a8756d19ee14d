/**
 * What the quickstart remembers in its state root between runs (quickstart/notes.json): that the template `web` is its own, and the
 * port its nginx listens on. Without this note it refuses to touch a template of that name.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';

export interface Notes {
  port: number;
}

export function quickstartDir(root: string): string {
  return join(root, 'quickstart');
}

export function readNotes(root: string): Notes | null {
  try {
    const notes = JSON.parse(readFileSync(join(quickstartDir(root), 'notes.json'), 'utf8')) as Notes;
    return Number.isInteger(notes.port) ? notes : null;
  } catch {
    return null;
  }
}

export function writeNotes(root: string, notes: Notes): void {
  mkdirSync(quickstartDir(root), { recursive: true });
  const file = join(quickstartDir(root), 'notes.json');
  writeFileSync(`${file}.tmp`, `${JSON.stringify(notes)}\n`);
  renameSync(`${file}.tmp`, file);
}

/** The wished port when it is free, else the first free one from 8080 on. */
export async function choosePort(wished: number | undefined, before: number | undefined): Promise<number> {
  if (wished !== undefined) {
    if (await isFree(wished)) return wished;
    throw new StrataError('BUSY', `port ${wished} on 127.0.0.1 is in use`, { hint: 'give another --port' });
  }
  if (before !== undefined && (await isFree(before))) return before;
  for (let port = 8080; port < 8280; port++) if (await isFree(port)) return port;
  throw new StrataError('BUSY', 'no port from 8080 to 8279 on 127.0.0.1 is free', {
    hint: 'give one by --port',
  });
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** The codename of this Debian release, e.g. `bookworm`. */
export function hostCodename(): string {
  let text = '';
  try {
    text = readFileSync('/etc/os-release', 'utf8');
  } catch {}
  const codename = /^VERSION_CODENAME=["']?([a-z0-9.-]+)/m.exec(text)?.[1];
  if (!codename || !/^ID(_LIKE)?=.*debian/m.test(text)) {
    throw new StrataError('UNSUPPORTED', 'the quickstart needs a Debian host with its apt sources', {
      hint: 'on other hosts begin with `strata repo add NAME SOURCE`',
    });
  }
  return codename;
}
