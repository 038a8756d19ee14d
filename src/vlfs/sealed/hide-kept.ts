/**
 * Before a sealed mount: directories of the layers that were renamed and whose old place was then deleted. Their redirects need them at their old
 * place in the image, so the private layer hides them there by whiteouts and opaque directories. They change nothing that one can see:
 * the layers' whiteout sets hide the same. Absorbing takes them away again.
 */

import { StrataError } from '../../base/index.ts';
import {
  close,
  E,
  fgetxattr,
  fsetxattr,
  getxattrPathFd,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../directory-fds.ts';
import { REDIRECTS_XATTR } from '../lookup.ts';
import { directoryAt, isDirectory, isHidden, namesOf, OPAQUE, REDIRECT } from '../merged-directory.ts';
import { closeCore, openCore } from '../open-core.ts';
import { keepTimes, openPrivateDir, privateDirectory, restoreTimes } from '../private-layer.ts';
import { eachPrivateDirectory, must, redirectTargets, withAncestors } from './private-tree.ts';

interface Mask {
  parent: string;
  name: string;
}

/**
 * Paths in the layers that the image must show for the private layer's redirects, in order; [] for nearly every appliance. The VLFS must not
 * be mounted. Throws UNSUPPORTED when a place shows one part of a directory and a redirect another.
 */
export function hideKept(spec: VlfsSpec): string[] {
  if (!mayHaveRedirects(spec.privateDir)) return [];
  const core = openCore({ ...spec, readOnly: false });
  try {
    const kept = [...withAncestors(redirectTargets(core))].sort();
    hideAll(
      core,
      kept.flatMap((path) => maskFor(core, path)),
    );
    return kept;
  } finally {
    closeCore(core);
  }
}

function mayHaveRedirects(privateDir: string): boolean {
  const fd = openPrivateDir(privateDir);
  if (fd < 0) return false;
  const found = getxattrPathFd(fd, REDIRECTS_XATTR);
  close(fd);
  return typeof found !== 'number';
}

function maskFor(core: Core, path: string): Mask[] {
  const slash = path.lastIndexOf('/');
  const parent = slash < 0 ? '' : path.slice(0, slash);
  const name = path.slice(slash + 1);
  const directory = directoryAt(core.stack, parent, core.hidden);
  const candidates = directory === null ? undefined : namesOf(directory).get(name);
  if (candidates === undefined) return [];
  const refs = typeof candidates === 'number' ? [candidates] : candidates;
  if (!refs.some((ref) => isHidden(core.hidden, ref) && isDirectory(core.stack, ref))) return [];
  if (refs.some((ref) => !isHidden(core.hidden, ref))) {
    throw new StrataError(
      'UNSUPPORTED',
      `/${path} was deleted, a part of it was renamed before, and an update brought it back: a sealed mount cannot show that`,
      {
        hint: 'use the door fuse',
      },
    );
  }
  return [{ parent, name }];
}

function hideAll(core: Core, masks: readonly Mask[]): void {
  if (masks.length === 0) return;
  for (const { parent } of masks) {
    const node = directoryByPath(core, parent === '' ? [] : parent.split('/'));
    if (node === null || node.priv || node.merged?.path !== parent) continue;
    must(privateDirectory(core, node), `copy /${parent} up`);
  }
  eachPrivateDirectory(core, (node) => {
    for (const { parent, name } of masks) if (node.merged?.path === parent) hideAt(core, node, name);
  });
}

const stat = newStat();

function hideAt(core: Core, node: Node, name: string): void {
  const fd = must(directoryFd(core, node), 'open a private directory');
  const found = statAt(fd, name, stat);
  if (found === -E.NOENT) {
    const times = keepTimes(fd);
    must(mknodat(fd, name, S_IFCHR, 0), `hide ${name}`);
    restoreTimes(fd, times);
    return;
  }
  must(found, `look at ${name}`);
  if ((stat.mode & S_IFMT) !== S_IFDIR) return;
  const directory = must(openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), `open ${name}`);
  const isApart = [OPAQUE, REDIRECT].some((attribute) => typeof fgetxattr(directory, attribute) !== 'number');
  const result = isApart ? 0 : fsetxattr(directory, OPAQUE, Buffer.from('y'));
  close(directory);
  must(result, `hide what lies below ${name}`);
}
