/** The face of base/: errors, typed events, bytes, limits, branded types. Imports nothing. */
export * from './assert.ts';

import './buffer-types.ts';

export * from './brand.ts';
export * from './bytes.ts';
export * from './errors.ts';
export * from './events.ts';
export * from './limits.ts';
export * from './names.ts';
