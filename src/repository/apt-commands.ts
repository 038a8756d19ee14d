/**
 * The host's apt as a tool: which package lists it has, what is in them, and single files fetched. Strata reads no sources.list and
 * speaks no HTTP itself: proxies, keys, mirrors and authentication are as the host's administrator set them. The environment passes
 * through, so that APT_CONFIG works. Output is bounded; no shell is involved.
 */
import { spawn } from 'node:child_process';
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
}

function run(file: string, args: string[], maxBytes: number): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C.UTF-8', DEBIAN_FRONTEND: 'noninteractive' },
    });
    const out: Buffer[] = [];
    let bytes = 0;
    let message = '';
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
      if (bytes > maxBytes)
        return reject(new StrataError('LIMIT', `${file}: more than ${maxBytes} bytes of output`));
      resolve({ status: status ?? (signal ? 128 : 1), stdout: Buffer.concat(out), stderr: message });
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

/** Fetches the package lists of all configured sources. */
export async function updatePackageLists(): Promise<void> {
  const result = await run(APT_GET, ['update', '-q'], 16 * 2 ** 20);
  if (result.status !== 0) {
    throw new StrataError('FETCH', `apt-get update failed: ${aptErrors(result.stderr).join('; ')}`, {
      hint: "check the network and the host's apt sources",
    });
  }
}

export interface Download {
  uri: string;
  /** Where it goes; a `file:` URI becomes a symbolic link. */
  file: string;
  /** 64 hexadecimal digits. */
  sha256: string;
}

/** Fetches files. What fails is missing afterwards; returns apt's error lines (none when all went well). Never throws for a failed download. */
export async function downloadFiles(downloads: readonly Download[]): Promise<string[]> {
  const args = ['-q', '-o', 'APT::Sandbox::User=root', 'download-file'];
  for (const { uri, file, sha256 } of downloads) args.push(uri, file, `SHA256:${sha256}`);
  const result = await run(APT_HELPER, args, 16 * 2 ** 20);
  if (result.status === 0) return [];
  const errors = aptErrors(result.stderr);
  return errors.length > 0 ? errors : [`apt-helper exited with status ${result.status}`];
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
