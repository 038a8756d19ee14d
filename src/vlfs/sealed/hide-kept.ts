/**
 * Before a sealed mount: directories that redirects lead to stand at their old place in the image, also where that place was deleted since. The private
 * layer hides them there by whiteouts and opaque directories. They change nothing that one can see: the layers' whiteout sets hide the
 * same. Absorbing takes them away again.
 */
import { type Name, nameToText, StrataError } from '../../base/index.ts';
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
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { step } from '../core.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { closeCore, type OpenOptions, openCore } from '../open-core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { keepTimes, openPrivateDir, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import { directoryAt } from '../stack/child-directories.ts';
import { OPAQUE, REDIRECT, REDIRECTS_XATTR } from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import { sameDirectory, shownAt, withAncestors } from './image-walk.ts';
import { rememberTargets } from './known-targets.ts';
import { eachPrivateDirectory, must, redirectTargets } from './private-tree.ts';

/** A name in the image that must not be seen at its place. */
interface Mask {
  parent: string;
  name: string;
  /** Something else should be seen there, which the image cannot hold too; so the private layer must cover the place already. */
  isRival: boolean;
}

/**
 * Paths in the layers to which the private layer's redirects lead, in order; [] for nearly every appliance. The VLFS must not be mounted. Throws
 * UNSUPPORTED when a place should show one part of a directory and a redirect another, or two places the same.
 */
export function hideKept(spec: VlfsSpec, options: Pick<OpenOptions, 'onStep'> = {}): string[] {
  if (!mayHaveRedirects(spec.privateDir)) {
    rememberTargets(spec.privateDir, []);
    return [];
  }
  const core = openCore({ ...spec, readOnly: false }, options);
  try {
    const found = redirectTargets(core);
    const targets = [...new Set(found)].sort();
    for (const target of targets) refuseTwoPlaces(core, target, found.filter((one) => one === target).length);
    rememberTargets(spec.privateDir, targets);
    hideAll(core, masksFor(core, new Set(targets)));
    return targets;
  } finally {
    closeCore(core);
  }
}

/** Overlayfs has one inode for a lower directory, so it shows none of two places. `redirects`: how many lead there. */
function refuseTwoPlaces(core: Core, target: string, redirects: number): void {
  const places = placesOfLayerPath(core, target).filter((parts) => {
    const node = directoryByPath(core, parts);
    return node !== null && node.redirect === null && node.merged?.path === target;
  });
  if (places.length + redirects < 2) return;
  throw new StrataError(
    'UNSUPPORTED',
    `/${nameToText(target as Name)} was renamed and has been brought back too: a sealed mount cannot show it at two places`,
    { hint: 'use the door fuse' },
  );
}

function mayHaveRedirects(privateDir: string): boolean {
  const fd = openPrivateDir(privateDir);
  if (fd < 0) return false;
  const found = getxattrPathFd(fd, REDIRECTS_XATTR);
  close(fd);
  return typeof found !== 'number';
}

function masksFor(core: Core, targets: ReadonlySet<string>): Mask[] {
  const masks: Mask[] = [];
  for (const path of withAncestors(targets)) {
    const reached = directoryAt(core.stack, path, core.hidden);
    if (reached === null) continue;
    const shown = shownAt(core.stack, core.hidden, targets, path);
    if (shown !== null && (!targets.has(path) || sameDirectory(shown, reached))) continue;
    const slash = path.lastIndexOf('/');
    const parent = slash < 0 ? '' : path.slice(0, slash);
    const name = path.slice(slash + 1);
    masks.push({ parent, name, isRival: shown !== null || showsFile(core, targets, parent, name) });
  }
  return masks;
}

function showsFile(core: Core, targets: ReadonlySet<string>, parent: string, name: string): boolean {
  const directory =
    parent === '' || targets.has(parent)
      ? directoryAt(core.stack, parent, core.hidden)
      : shownAt(core.stack, core.hidden, targets, parent);
  return directory !== null && visibleOf(namesOf(directory).get(name), core.hidden) >= 0;
}

function hideAll(core: Core, masks: readonly Mask[]): void {
  if (masks.length === 0) return;
  for (const { parent } of masks) {
    const node = directoryByPath(core, parent === '' ? [] : parent.split('/'));
    if (node === null || node.priv || node.merged?.path !== parent) continue;
    must(privateDirectory(core, node), `copy /${parent} up`);
  }
  eachPrivateDirectory(core, (node) => {
    for (const mask of masks) if (node.merged?.path === mask.parent) hideAt(core, node, mask);
  });
}

const stat = newStat();

function hideAt(core: Core, node: Node, mask: Mask): void {
  const { name } = mask;
  const fd = must(directoryFd(core, node), 'open a private directory');
  const found = statAt(fd, name, stat);
  if (found === -E.NOENT) {
    if (mask.isRival) throw rivals(mask);
    const times = keepTimes(fd);
    step(core, 'hide: whiteout');
    must(mknodat(fd, name, S_IFCHR, 0), `hide ${name}`);
    restoreTimes(fd, times);
    return;
  }
  must(found, `look at ${name}`);
  if ((stat.mode & S_IFMT) !== S_IFDIR) return;
  const directory = must(openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), `open ${name}`);
  try {
    if ([OPAQUE, REDIRECT].some((attribute) => typeof fgetxattr(directory, attribute) !== 'number')) return;
    if (mask.isRival) throw rivals(mask);
    step(core, 'hide: opaque');
    must(fsetxattr(directory, OPAQUE, Buffer.from('y')), `hide what lies below ${name}`);
  } finally {
    close(directory);
  }
}

function rivals({ parent, name }: Mask): StrataError {
  return new StrataError(
    'UNSUPPORTED',
    `/${parent === '' ? '' : `${nameToText(parent as Name)}/`}${nameToText(name as Name)} was renamed and deleted, and an update brought a part of it back: a sealed mount cannot show both`,
    { hint: 'use the door fuse' },
  );
}
