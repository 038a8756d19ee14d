/**
 * The host's apt as a tool: which package lists it has, what is in them, and single files fetched. Strata reads no sources.list and
 * speaks no HTTP itself: proxies, keys, mirrors and authentication are as the host's administrator set them. The environment passes
 * through, so that APT_CONFIG works. Output is bounded; no shell is involved.
 */
import { spawn } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError, StrataError } from '../base/index.ts';

const APT_HELPER = '/usr/lib/apt/apt-helper';
const APT_GET = 'apt-get';
/** Bytes of one uncompressed package list. */
const MAX_LIST_BYTES = 2 ** 30;
const MAX_MESSAGE_BYTES = 256 * 1024;

interface CommandResult {
  status: number;
  stdout: Buffer;
  stderr: string;
  /** It was ended because too little came. */
  isStalled: boolean;
}

/** A command that fetches is ended when less than `leastBytes` come in `windowMs`. */
interface Watch {
  /** Bytes that have come so far. */
  received(): number;
  windowMs: number;
  leastBytes: number;
}

/** Looks at what has come; calls `stalled` once when it is too little. Returns what ends it. */
function watchProgress({ received, windowMs, leastBytes }: Watch, stalled: () => void): () => void {
  let before = received();
  const timer = setInterval(() => {
    const now = received();
    // What becomes less was started again.
    if (now >= before && now - before < leastBytes) stalled();
    before = now;
  }, windowMs);
  timer.unref();
  return () => clearInterval(timer);
}

function run(file: string, args: string[], maxBytes: number, watch?: Watch): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C.UTF-8', DEBIAN_FRONTEND: 'noninteractive' },
    });
    const out: Buffer[] = [];
    let bytes = 0;
    let message = '';
    let isStalled = false;
    const end =
      watch &&
      watchProgress(watch, () => {
        isStalled = true;
        child.kill('SIGKILL');
      });
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= maxBytes) out.push(chunk);
      else child.kill('SIGKILL');
    });
    child.stderr.on('data', (chunk: Buffer) => {
      if (message.length < MAX_MESSAGE_BYTES) message += chunk.toString('utf8');
    });
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return reject(asStrataError(error));
      reject(
        new StrataError('UNSUPPORTED', `${file} is not on this host, and repositories of kind apt need it`, {
          hint: 'use a Debian host, or a repository of kind dir',
          cause: error,
        }),
      );
    });
    child.on('close', (status, signal) => {
      end?.();
      if (bytes > maxBytes)
        return reject(new StrataError('LIMIT', `${file}: more than ${maxBytes} bytes of output`));
      const how = { status: status ?? (signal ? 128 : 1), isStalled };
      resolve({ ...how, stdout: Buffer.concat(out), stderr: message });
    });
  });
}

/** The lines of apt's errors, without its 'E: ' and 'W: '. */
export function aptErrors(stderr: string): string[] {
  return stderr
    .split('\n')
    .filter((line) => line.startsWith('E: '))
    .map((line) => line.slice(3).trim());
}

/** One package list that apt has or could have. */
export interface PackageList {
  /** The local file; null when it has not been fetched (apt-get update). */
  file: string | null;
  names: string[];
  component: string;
  architecture: string;
  /** What a package's Filename is relative to. */
  baseUri: string;
}

const FIELDS = ['FILENAME', 'CODENAME', 'SUITE', 'RELEASE', 'COMPONENT', 'ARCHITECTURE', 'REPO_URI'] as const;

/** All package lists of the host's configured sources, fetched ones. */
export async function packageLists(): Promise<PackageList[]> {
  const format = FIELDS.map((field) => `$(${field})`).join('\t');
  const result = await run(
    APT_GET,
    ['indextargets', '--format', format, 'Created-By: Packages'],
    16 * 2 ** 20,
  );
  if (result.status !== 0) {
    throw new StrataError('FETCH', `apt-get indextargets failed: ${aptErrors(result.stderr).join('; ')}`, {
      hint: "check the host's apt sources with apt-get update",
    });
  }
  const lists: PackageList[] = [];
  for (const line of result.stdout.toString('utf8').split('\n')) {
    const values = line.split('\t');
    if (values.length !== FIELDS.length) continue;
    const [file, codename, suite, release, component, architecture, baseUri] = values as [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ];
    lists.push({
      file: file === '' ? null : file,
      names: [codename, suite, release].filter((name) => name !== ''),
      component,
      architecture,
      baseUri,
    });
  }
  return lists;
}

/** The host's architecture as apt has it, e.g. amd64. */
export async function hostArchitecture(): Promise<string> {
  const result = await run('apt-config', ['shell', 'A', 'APT::Architecture'], 4096);
  const architecture = /^A='([a-z0-9-]+)'/.exec(result.stdout.toString('latin1'))?.[1];
  if (architecture === undefined)
    throw new StrataError('FETCH', 'apt-config does not tell the architecture of this host');
  return architecture;
}

/** The uncompressed content of a package list, whatever it is compressed with. */
export async function readPackageList(file: string): Promise<Buffer> {
  const result = await run(APT_HELPER, ['cat-file', file], MAX_LIST_BYTES);
  if (result.status !== 0) {
    throw new StrataError('FETCH', `cannot read ${file}: ${aptErrors(result.stderr).join('; ')}`, {
      hint: 'run apt-get update',
    });
  }
  return result.stdout;
}

/** Seconds that apt waits for a server that sends nothing, unless Acquire::http::Timeout says otherwise. */
const APT_TIMEOUT_S = 30;
/** Less than this a second, for twice as long as apt waits for the first byte, is as good as nothing: apt itself waits for ever while single bytes come. */
const LEAST_BYTES_A_SECOND = 1024;

/** How long a command that fetches may get next to nothing. */
export async function fetchPatience(): Promise<Pick<Watch, 'windowMs' | 'leastBytes'>> {
  const result = await run('apt-config', ['shell', 'T', 'Acquire::http::Timeout'], 4096);
  const seconds = Number(/^T='(\d+)'/.exec(result.stdout.toString('latin1'))?.[1] ?? APT_TIMEOUT_S);
  const windowSeconds = Math.max(1, seconds) * 2;
  return { windowMs: windowSeconds * 1000, leastBytes: windowSeconds * LEAST_BYTES_A_SECOND };
}

/** What the user is told of a server that was given up. */
export function stallText(windowMs: number): string {
  return `the server sent next to nothing for ${Math.round(windowMs / 1000)} s`;
}

function sizeOf(file: string): number {
  try {
    return statSync(file).size;
  } catch {
    return 0;
  }
}

/** Bytes in the files of a directory. */
function bytesIn(dir: string): number {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return 0;
  }
  return names.reduce((sum, name) => sum + sizeOf(join(dir, name)), 0);
}

/** Fetches the package lists of all configured sources. */
export async function updatePackageLists(): Promise<void> {
  const patience = await fetchPatience();
  const places = await run('apt-config', ['shell', 'D', 'Dir::State::lists/d'], 4096);
  const dir = /^D='(.*)'$/m.exec(places.stdout.toString('utf8'))?.[1] ?? '/var/lib/apt/lists';
  const received = (): number => bytesIn(dir) + bytesIn(join(dir, 'partial'));
  const result = await run(APT_GET, ['update', '-q'], 16 * 2 ** 20, { ...patience, received });
  if (result.status === 0) return;
  const why = result.isStalled ? stallText(patience.windowMs) : aptErrors(result.stderr).join('; ');
  throw new StrataError('FETCH', `apt-get update failed: ${why}`, {
    hint: "check the network and the host's apt sources",
  });
}

export interface Download {
  uri: string;
  /** Where it goes; a `file:` URI becomes a symbolic link. */
  file: string;
  /** 64 hexadecimal digits. */
  sha256: string;
}

export interface DownloadFailures {
  /** apt's error lines; none when all went well. */
  errors: string[];
  /** The server was given up: asking once more would take as long. */
  isStalled: boolean;
}

/** Fetches files. What fails is missing afterwards. Never throws for a failed download. */
export async function downloadFiles(downloads: readonly Download[]): Promise<DownloadFailures> {
  const args = ['-q', '-o', 'APT::Sandbox::User=root', 'download-file'];
  for (const { uri, file, sha256 } of downloads) args.push(uri, file, `SHA256:${sha256}`);
  const patience = await fetchPatience();
  const received = (): number => downloads.reduce((sum, { file }) => sum + sizeOf(file), 0);
  const { status, stderr, isStalled } = await run(APT_HELPER, args, 16 * 2 ** 20, { ...patience, received });
  if (status === 0) return { errors: [], isStalled };
  if (isStalled) return { errors: [stallText(patience.windowMs)], isStalled };
  const errors = aptErrors(stderr);
  return { errors: errors.length > 0 ? errors : [`apt-helper exited with status ${status}`], isStalled };
}

/** A package's URI, quoted as apt quotes it. */
export function packageUri(baseUri: string, filename: string): string {
  const quoted = [...Buffer.from(filename, 'utf8')]
    .map((byte) =>
      byte <= 0x20 || byte >= 0x7f || byte === 0x25 || byte === 0x2b || byte === 0x7e
        ? `%${byte.toString(16).padStart(2, '0')}`
        : String.fromCharCode(byte),
    )
    .join('');
  return `${baseUri}${quoted}`;
}
