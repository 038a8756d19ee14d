/** For tests: a minimal root file system made of one static busybox. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { ContainerSpec } from './contract.ts';

export const BUSYBOX = '/bin/busybox';

export interface TestRoot {
  root: string;
  rootfs: string;
  spec(command: string[], more?: Partial<ContainerSpec>): ContainerSpec;
  remove(): void;
}

/** True when tests that start containers can run here. */
export function canRunContainers(): boolean {
  return process.getuid?.() === 0 && existsSync(BUSYBOX);
}

let serial = 0;

/** A state root and a busybox root file system in a temporary directory. */
export function makeTestRoot(): TestRoot {
  const root = mkdtempSync('/tmp/strata-runtime-test-');
  const rootfs = join(root, 'rootfs');
  for (const dir of ['bin', 'proc', 'sys', 'dev', 'tmp', 'root', 'etc'])
    mkdirSync(join(rootfs, dir), { recursive: true });
  copyFileSync(BUSYBOX, join(rootfs, 'bin/busybox'));
  chmodSync(join(rootfs, 'bin/busybox'), 0o755);
  for (const name of [
    'sh',
    'id',
    'hostname',
    'ps',
    'ls',
    'cat',
    'mount',
    'sleep',
    'true',
    'false',
    'env',
    'head',
    'insmod',
    'mknod',
    'unshare',
    'tty',
    'chroot',
    'test',
    'stty',
    'printf',
  ])
    symlinkSync('busybox', join(rootfs, 'bin', name));
  writeFileSync(join(rootfs, 'etc/hosts'), '');
  writeFileSync(join(rootfs, 'etc/hostname'), 'old\n');
  return {
    root,
    rootfs,
    spec: (command, more = {}) => ({
      id: `strata-test-${process.pid}-${++serial}`,
      rootfs,
      hostname: 'web-1',
      command,
      env: {},
      cwd: '/',
      network: 'none',
      terminal: false,
      ...more,
    }),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}
