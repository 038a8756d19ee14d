/** The face of vlfs/: the layered file system. Its contract, with every type that crosses rooms, is contract.ts. */
export {
  answersAside,
  countAside,
  diffAside,
  diffPairAside,
  exchangeAside,
  mergeAside,
  ownerAside,
  pruneAside,
  resetAside,
  revertAside,
  spaceAside,
  usageAside,
} from './aside/aside.ts';
export { diffVlfs } from './changes/diff.ts';
export {
  QUARANTINE_XATTR,
  quarantineDir,
  readQuarantine,
  setQuarantine,
} from './checks/quarantine.ts';
export { onOpenFile } from './checks/scan-on-open.ts';
export { diffPair } from './compare/diff-pair.ts';
export type * from './contract.ts';
export { PENDING } from './contract.ts';
export {
  basesOf,
  completePrivate,
  copyPartial,
  openShown,
  type PartialSource,
  partialSource,
  readWhole,
} from './delta/outside.ts';
export { isMarkOfPartial, PARTIAL_XATTR, writeBases } from './delta/partial-form.ts';
export { ADOPT_FILE, type AdoptFacts } from './exchange/adopt.ts';
export { emptyRoot, NEW_ROOT, rootFactsOf } from './exchange/root-facts.ts';
export { markOf as settlingFile } from './freeze/finish.ts';
export { finishFollowing, followingDir } from './freeze/follow.ts';
export { OPEN_MODE } from './ledger/layout.ts';
export { createLedger, type Ledger, type LedgerMemory } from './ledger/ledger.ts';
export { type LedgerContent, readLedger, readLedgerHeader } from './ledger/read-ledger.ts';
export type { Revival } from './ledger/revive.ts';
export { type MergeInput, type MergeOutcome, mergeVlfs } from './merge/merge.ts';
export { encodeIno, INO_XATTR } from './nodes/ino-xattr.ts';
export { privateIno } from './nodes/inode-numbers.ts';
export {
  encodeKeptInodes,
  FORMER_NAMES,
  type FormerGroup,
  type KeptInode,
  type KeptInodes,
  keptInodesFile,
  openKeptInodes,
  readFormerNames,
} from './nodes/kept-inodes.ts';
export {
  copyRootAttributes,
  exchangeOffline,
  finishPrivate,
  freezeOffline,
  type PathOwner,
  type PrivateUsage,
  privateUsage,
  pruneWhiteouts,
  resetOffline,
  revertOffline,
  whoOwns,
} from './offline.ts';
export { type Preparation, prepareVlfs } from './open-core.ts';
export type { Denial, Suppressed } from './policy/denials.ts';
export { markObjects } from './policy/mark.ts';
export { MARK_XATTR, USER_MARK, WAS_XATTR } from './policy/marks.ts';
export { createMatcher, type Matcher, matcherOf, NO_RULE } from './policy/matcher.ts';
export { exactPattern, parsePattern } from './policy/pattern.ts';
export { copyShown, type ShownObject, shownAtPath } from './policy/shown.ts';
export { freedBytes, type Space, takenBytes } from './private-layer/space.ts';
export { type WalkedEntry, walkEntries } from './private-layer/walk-entries.ts';
export {
  forgetUsage,
  formatLimits,
  formatUsage,
  type QuotaLimits,
  quotaFile,
  readLimits,
  readUsage,
  replaceUsage,
  type Usage,
  usageFile,
} from './quota/usage-file.ts';
export { absorbSealed } from './sealed/absorb.ts';
export type { SealedOptions } from './sealed/contract.ts';
export { isPrivateInUse, mountSealed, prepareSealed, releaseSealedImages } from './sealed/mount.ts';
export type { HiddenEntries } from './stack/merged-directory.ts';
export { type LevelFile, whereShown } from './stack/shown.ts';
export { closeIdleStacks, closeStack, openStack, type Stack } from './stack/stack.ts';
export { openVlfs, type Vlfs, type VlfsOptions, type VlfsStats } from './vlfs.ts';
