/** An answer of S3 that is an error: an XML document with a code that clients decide by. */
export class FakeS3Error extends Error {
  readonly status: number
  readonly code: string
  readonly headers: Readonly<Record<string, string>>
  /** Further elements of the document. */
  readonly details: Readonly<Record<string, string>>

  constructor(status: number, code: string, message = '', details: Readonly<Record<string, string>> = {}, headers: Readonly<Record<string, string>> = {}) {
    super(message === '' ? code : message)
    this.status = status
    this.code = code
    this.headers = headers
    this.details = details
  }

  document(): string {
    const details = Object.entries({ Code: this.code, Message: this.message, ...this.details }).map(([name, value]) => `<${name}>${xmlText(value)}</${name}>`)
    return `<?xml version="1.0" encoding="UTF-8"?>\n<Error>${details.join('')}<RequestId>fake</RequestId></Error>`
  }
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

/** What XML 1.0 cannot say at all is what encoding-type=url is for. */
export function xmlText(text: string): string { return text.replace(/[&<>"]/g, character => ENTITIES[character]!) }
