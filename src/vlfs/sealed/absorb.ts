/**
 * After a sealed mount: what the kernel's overlayfs wrote is brought into the form that the other door writes, against the stack that was mounted.
 * Whiteouts and opaque directories, which would hide a name in every layer for ever, become whiteouts in the sets of the layers that
 * have the name, so that a replaced layer is seen again; copies get the note of what they hide. Nothing that one can see changes;
 * cut off anywhere and repeated it ends the same. Partial files, which would show any file that their mark names, are never the kernel's work: root inside can set the mark
 * through this door, so it goes. So do overlayfs' notes of what files are copies of: two names with one origin are one inode to it, and one of them is gone, when the
 * first is shown again beside its renamed copy.
 */
import {
  close,
  DT_DIR,
  DT_REG,
  DT_UNKNOWN,
  E,
  fgetxattr,
  fremovexattr,
  fsetxattr,
  getxattrAt,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  removexattrAt,
  setxattrAt,
  unlinkat,
} from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { ORIGIN_XATTR, originOf } from '../copy-up/origin.ts';
import type { Core, Node } from '../core.ts';
import { step } from '../core.ts';
import { BASES_XATTR, PARTIAL_XATTR } from '../delta/partial-form.ts';
import { pathOf } from '../nodes/nodes.ts';
import { closeCore, type OpenOptions, openCore } from '../open-core.ts';
import { candidatesAt, nodeAt, uncovered } from '../operations/lookup.ts';
import { isWhiteoutEntry } from '../operations/remove-ops.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { keepTimes, restoreTimes } from '../private-layer/private-layer.ts';
import { isOpaque } from '../stack/child-directories.ts';
import { entryOf, isDirectory, OPAQUE, REDIRECT, unitOf } from '../stack/merged-directory.ts';
import { hideBeyond } from '../whiteouts/hide-beyond.ts';
import { hide } from '../whiteouts/whiteouts.ts';
import { shownAt, withAncestors } from './image-walk.ts';
import { knownTargets, rememberTargets } from './known-targets.ts';
import {
  eachPrivateDirectory,
  hasRedirect,
  must,
  noteRedirects,
  privateNames,
  redirectTargets,
} from './private-tree.ts';

const KERNEL_ORIGIN_XATTR = 'trusted.overlay.origin';

export interface AbsorbOptions extends OpenOptions {
  /** The private layer had no partial files when it was mounted; default true. */
  wasComplete?: boolean;
}

/** The VLFS must not be mounted; `spec.stack` is the stack of the sealed mount. Throws IO or NO_SPACE; it can be repeated. */
export function absorbSealed(spec: VlfsSpec, { wasComplete = true, ...options }: AbsorbOptions = {}): void {
  const core = openCore({ ...spec, readOnly: false }, options);
  try {
    if (wasComplete) dropBases(core);
    let redirects = false;
    eachPrivateDirectory(core, (node) => {
      redirects ||= node !== core.root && hasRedirect(core, node);
    });
    if (redirects) noteRedirects(core);
    const targets = redirects ? redirectTargets(core) : [];
    const known = knownTargets(spec.privateDir);
    for (const target of targets) if (!known.has(target)) hideCovered(core, target, known);
    rememberTargets(spec.privateDir, targets);
    if (redirects) eachPrivateDirectory(core, (node) => makeAbsolute(core, node));
    const kept = withAncestors(targets);
    eachPrivateDirectory(core, (node) => absorbDirectory(core, node, { kept, wasComplete }));
  } finally {
    closeCore(core);
  }
}

/** Nothing that is absorbed may look for content where the private layer says. */
function dropBases(core: Core): void {
  core.bases = new Map();
  core.hasPartials = false;
  if (fgetxattr(core.rootFd, BASES_XATTR) === -E.NODATA) return;
  step(core, 'absorb: bases');
  must(fremovexattr(core.rootFd, BASES_XATTR), 'change the private layer');
}

function dropMark(core: Core, fd: number, name: string, mark: string): void {
  const value = getxattrAt(fd, name, mark);
  if (value === -E.NODATA || value === -E.OPNOTSUPP) return;
  step(core, 'absorb: mark');
  must(removexattrAt(fd, name, mark), `change ${name}`);
}

/** The kernel made this redirect over an image that did not show what whiteouts hid. */
function hideCovered(core: Core, target: string, known: ReadonlySet<string>): void {
  const shown = shownAt(core.stack, core.hidden, known, target);
  if (shown !== null) must(hideBeyond(core, shown), 'write whiteouts');
}

/** The kernel names a sibling by its name alone, which would mean another directory after one more rename. */
function makeAbsolute(core: Core, node: Node): void {
  if (node.redirect === null || node.merged === null || node.redirect.startsWith('/')) return;
  const redirect = `/${node.merged.path}`;
  const fd = must(directoryFd(core, node), 'open a private directory');
  step(core, 'absorb: redirect');
  must(fsetxattr(fd, REDIRECT, Buffer.from(redirect, 'latin1')), 'change a redirect');
  node.redirect = redirect;
}

function absorbDirectory(
  core: Core,
  node: Node,
  { kept, wasComplete }: { kept: ReadonlySet<string>; wasComplete: boolean },
): void {
  const fd = must(directoryFd(core, node), 'open a private directory');
  for (const { name, type } of privateNames(core, node)) {
    if (wasComplete && (type === DT_REG || type === DT_UNKNOWN)) dropMark(core, fd, name, PARTIAL_XATTR);
    if (isWhiteoutEntry(fd, name, type)) absorbWhiteout(core, node, name, kept);
    else if (type === DT_DIR) absorbOpaque(core, node, name, kept);
    else {
      absorbFile(core, node, name);
      dropMark(core, fd, name, KERNEL_ORIGIN_XATTR);
    }
  }
}

/** True for a place in the layers that a redirect leads to or through: it stays hidden by the private layer, as the other door leaves it too. */
function isKept(node: Node, name: string, kept: ReadonlySet<string>): boolean {
  if (node.merged === null || kept.size === 0) return false;
  return kept.has(node.merged.path === '' ? name : `${node.merged.path}/${name}`);
}

function absorbWhiteout(core: Core, node: Node, name: string, kept: ReadonlySet<string>): void {
  if (isKept(node, name, kept)) return;
  const fd = must(directoryFd(core, node), 'open a private directory');
  must(hide(core, uncovered(core, node, name)), 'write whiteouts');
  const times = keepTimes(fd);
  step(core, 'absorb: whiteout');
  must(unlinkat(fd, name), `remove the whiteout ${name}`);
  restoreTimes(fd, times);
}

function absorbOpaque(core: Core, node: Node, name: string, kept: ReadonlySet<string>): void {
  const parentFd = must(directoryFd(core, node), 'open a private directory');
  const fd = must(openat(parentFd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), `open ${name}`);
  try {
    const opaque = fgetxattr(fd, OPAQUE);
    if (typeof opaque === 'number' || !isOpaque(opaque) || isKept(node, name, kept)) return;
    if (typeof fgetxattr(fd, REDIRECT) !== 'number') return;
    must(hide(core, uncovered(core, node, name)), 'write whiteouts');
    step(core, 'absorb: opaque');
    must(fremovexattr(fd, OPAQUE), `change ${name}`);
  } finally {
    close(fd);
  }
  const child = nodeAt(core, node, name);
  if (typeof child !== 'number') child.generation = -1;
}

/** Notes what a copy hides. A copy of one name of a hard-linked file left the others, so its name no longer counts there. */
function absorbFile(core: Core, node: Node, name: string): void {
  const shared = candidatesAt(node, name);
  if (shared.length === 0) return;
  const fd = must(directoryFd(core, node), 'open a private directory');
  if (typeof getxattrAt(fd, name, ORIGIN_XATTR) !== 'number') return;
  const linked = uncovered(core, node, name).filter(
    (ref) => !isDirectory(core.stack, ref) && unitOf(core.stack, ref).index.nlink(entryOf(ref)) > 1,
  );
  must(hide(core, linked), 'write whiteouts');
  const path = pathOf(core, node, name);
  if (path === null) return;
  step(core, 'absorb: origin');
  must(setxattrAt(fd, name, ORIGIN_XATTR, originOf(core.stack, path, shared[0]!)), `change ${name}`);
}
