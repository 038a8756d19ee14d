/**
 * clamd over its own protocol (clamd(8)): `zVERSION`, and `zINSTREAM` with the content in chunks, each behind its length. One connection
 * for each content; what clamd says is checked, never trusted to end. The socket is a path; nothing else is asked of the host.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { nameToText, StrataError } from '../../base/index.ts';
import type { Outcome, ScanInput, Scanner, ScannerConfig } from '../contract.ts';

const MAX_ANSWER_BYTES = 64 * 1024;
const END = Buffer.alloc(4);

/** Connects to clamd and asks for its version. Throws NOT_FOUND or FETCH when it does not answer. */
export async function clamavScanner(config: ScannerConfig): Promise<Scanner> {
  const { socket, timeoutMs, database } = config;
  let version: string;
  try {
    version = await ask(socket, timeoutMs, async (connection) => void connection.write('zVERSION\0'));
  } catch (error) {
    throw new StrataError('FETCH', `clamd does not answer at ${socket}: ${(error as Error).message}`, {
      hint: 'start clamd (apt install clamav-daemon), or name its socket: --socket PATH',
    });
  }
  if (!version.startsWith('ClamAV ')) {
    throw new StrataError('FETCH', `at ${socket} answers something that is not clamd`);
  }
  const signatures = database === null ? '' : ` ${fingerprint(database)}`;
  return {
    kind: 'clamav',
    version,
    stamp: `clamav ${version}${signatures}`,
    takesBytes: true,
    scan: (input) => scanStream(socket, timeoutMs, input),
  };
}

/** Names, sizes and contents of the files in a directory of signatures. */
function fingerprint(dir: string): string {
  const digest = createHash('sha256');
  try {
    for (const name of readdirSync(dir).sort()) {
      const path = join(dir, name);
      const stat = statSync(path);
      if (!stat.isFile()) continue;
      digest.update(`${name}\0${stat.size}\0`);
      // Large databases are clamd's own, which its version names.
      digest.update(stat.size > 16 << 20 ? `${stat.mtimeMs}` : readFileSync(path));
    }
  } catch (error) {
    throw new StrataError('NOT_FOUND', `${dir} cannot be read: ${(error as Error).message}`);
  }
  return digest.digest('hex');
}

async function scanStream(socket: string, timeoutMs: number, input: ScanInput): Promise<Outcome> {
  try {
    const answer = await ask(socket, timeoutMs, async (connection, ended) => {
      connection.write('zINSTREAM\0');
      for await (const chunk of input.chunks()) {
        if (ended()) return;
        const length = Buffer.alloc(4);
        length.writeUInt32BE(chunk.length);
        connection.write(length);
        // The chunk's memory is used again for the next one.
        if (!connection.write(Buffer.from(chunk))) await drained(connection);
      }
      connection.write(END);
    });
    return outcomeOf(answer);
  } catch (error) {
    return { kind: 'failed', reason: `clamd: ${(error as Error).message}` };
  }
}

function outcomeOf(answer: string): Outcome {
  if (answer === 'stream: OK') return { kind: 'clean' };
  if (answer.startsWith('INSTREAM size limit exceeded'))
    return { kind: 'skipped', reason: "larger than clamd's StreamMaxLength" };
  const found = /^stream: (.+) FOUND$/s.exec(answer);
  if (found) return { kind: 'infected', name: nameToText(found[1]!.slice(0, 256)) };
  return { kind: 'failed', reason: `clamd: ${nameToText(answer.slice(0, 256))}` };
}

function drained(connection: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      connection.off('drain', done);
      connection.off('close', done);
      resolve();
    };
    connection.on('drain', done);
    connection.on('close', done);
  });
}

/** Opens a connection, lets `send` write, and gives what clamd answers before its first NUL. */
function ask(
  socket: string,
  timeoutMs: number,
  send: (connection: Socket, ended: () => boolean) => Promise<void>,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const connection = createConnection(socket);
    let answer = '';
    let ended = false;
    const end = (error: Error | null): void => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      connection.destroy();
      if (error === null) resolve(answer);
      else reject(error);
    };
    const timer = setTimeout(() => end(new Error(`no answer for ${timeoutMs / 1000} s`)), timeoutMs);
    connection.on('data', (bytes) => {
      const nul = bytes.indexOf(0);
      answer += bytes.latin1Slice(0, nul < 0 ? bytes.length : nul);
      if (nul >= 0) end(null);
      else if (answer.length > MAX_ANSWER_BYTES) end(new Error('its answer does not end'));
    });
    connection.on('error', (error) => end(error));
    connection.on('close', () => end(answer === '' ? new Error('it closed the connection') : null));
    connection.on('connect', () => {
      send(connection, () => ended).catch((error: Error) => end(error));
    });
  });
}
