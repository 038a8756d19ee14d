/** The face of fleet/configure: what makes a composed file system a configured one. */
export { configureTemplate } from './configure.ts';
export * from './contract.ts';
export { extendedStates, formatStatus, mergePrivateStatus, parseStatus } from './dpkg-status.ts';
export { cleanupConfigure } from './leftovers.ts';
export { databaseFiles, needsContainer } from './plan.ts';
export { MERGED_PATHS, mergePrivateFile } from './private-merge.ts';
