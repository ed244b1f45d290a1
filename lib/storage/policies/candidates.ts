/** How many entries victim() asks about before it answers -1. */
export const CANDIDATES_MAX = 256
