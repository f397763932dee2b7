/** The value below which this share of the values lies, between neighbours in proportion. */
export function quantile (values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const position = (sorted.length - 1) * share
  const [low = NaN, high = low] = [sorted[Math.floor(position)], sorted[Math.ceil(position)]]
  return low + (high - low) * (position - Math.floor(position))
}

export interface Spread { median: number, first: number, third: number }

/** Median and quartiles. */
export function spread (values: readonly number[]): Spread {
  return { median: quantile(values, 0.5), first: quantile(values, 0.25), third: quantile(values, 0.75) }
}

/** Three significant figures or so. */
export function show (value: number): string {
  if (!Number.isFinite(value)) return '–'
  if (value >= 100) return value.toFixed(0)
  return value.toFixed(value >= 10 ? 1 : 2)
}

/** `1.24 (1.22–1.27)` */
export function showSpread ({ median, first, third }: Spread): string {
  return `${show(median)} (${show(first)}–${show(third)})`
}

/** Columns under their heads; the first to the left, the others to the right. */
export function table (rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  const line = (row: string[]): string => row.map((cell, column) =>
    column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)).join('  ')
  return rows.map(line).join('\n')
}
