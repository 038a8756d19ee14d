/** A file system (ext4) on a disk whose every write is logged: for the time of a test, made and taken away. Needs root, FUSE and loop devices. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';

export interface LoggedDisk {
  /** Where the file system is mounted. */
  dir: string;
  /** The image as it was when logging began. */
  baseFile: string;
  logFile: string;
  /** Bytes that the log has now; everything that was acknowledged as durable is in it. */
  position(): number;
  /** Unmounts everything; the log stays. */
  close(): Promise<void>;
}

/** With data that nobody synced staying in memory as long as possible, so that a missing fsync shows. */
export const MOUNT_OPTIONS = 'noauto_da_alloc,nodiscard,commit=300';

export async function openLoggedDisk(work: string, sizeBytes: number): Promise<LoggedDisk> {
  const [door, dir] = [join(work, 'door'), join(work, 'disk')];
  for (const made of [door, dir]) mkdirSync(made);
  const [imageFile, baseFile, logFile] = ['image', 'base', 'log'].map((name) => join(work, name)) as [
    string,
    string,
    string,
  ];
  closeSync(openSync(baseFile, 'w'));
  truncateSync(baseFile, sizeBytes);
  const features = 'lazy_itable_init=0,lazy_journal_init=0,nodiscard';
  execFileSync('mkfs.ext4', ['-q', '-F', '-b', '4096', '-m', '0', '-J', 'size=4', '-E', features, baseFile]);
  execFileSync('cp', ['--sparse=always', baseFile, imageFile]);
  const server = spawn(
    process.execPath,
    [join(import.meta.dirname, 'logged-disk-server.ts'), door, imageFile, logFile],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let loop = '';
  const close = async (): Promise<void> => {
    quietly('umount', ['-R', dir]);
    // Somebody still uses it, when a test failed.
    quietly('umount', ['-R', '-l', dir]);
    if (loop !== '') quietly('losetup', ['-d', loop]);
    quietly('umount', ['-l', door]);
    await ended(server);
  };
  try {
    await new Promise<void>((ready, failed) => {
      server.stdout?.once('data', () => ready());
      server.once('exit', (code) => failed(new Error(`the logged disk ended with ${code}`)));
    });
    loop = execFileSync('losetup', ['-f', '--show', join(door, 'disk')], { encoding: 'utf8' }).trim();
    execFileSync('mount', ['-t', 'ext4', '-o', MOUNT_OPTIONS, loop, dir]);
  } catch (error) {
    await close();
    throw error;
  }
  return { dir, baseFile, logFile, position: () => statSync(join(door, 'position')).size, close };
}

function quietly(file: string, args: string[]): void {
  try {
    execFileSync(file, args, { stdio: 'ignore', timeout: 20_000 });
  } catch {
    // Not mounted, or gone already.
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
  await new Promise((done) => child.once('exit', done));
  clearTimeout(timer);
}
