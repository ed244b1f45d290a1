import { expect } from 'chai'
import { HiCacheError } from '../../../lib/error.js'
import { isExpired, refusalError, refusalOf, refusalOfMeta, remedyOf, sayRefusal } from '../../../lib/storage/object/object-refusal.js'
import { META_BYTES_MAX } from '../../../lib/transfer/protocol.js'

const meta = (text: string): Uint8Array => {
  const bytes = new Uint8Array(META_BYTES_MAX)
  bytes.set(Buffer.from(text))
  return bytes
}
const answer = (status: number, body = '', headers: Record<string, string> = {}): Parameters<typeof refusalOf>[0] => ({ status, headers, body: Buffer.from(body) })
const xml = (code: string, message = ''): string => `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message><RequestId>r</RequestId></Error>`

describe('what an object store refuses', () => {
  it('is read from the body, else from the status', () => {
    expect(refusalOf(answer(403, xml('SignatureDoesNotMatch', 'They differ.')))).to.deep.equal({ status: 403, code: 'SignatureDoesNotMatch', message: 'They differ.' })
    expect(refusalOf(answer(403))).to.deep.equal({ status: 403, code: 'AccessDenied', message: '' })
    expect(refusalOf(answer(404, '<html>gone</html>')).code).to.equal('NotFound')
    expect(refusalOf(answer(418, 'tea')).code).to.equal('HTTP418')
    expect(refusalOf(answer(301, '', { 'x-amz-bucket-region': 'eu-west-1' })).message).to.include('eu-west-1')
    expect(refusalOf(answer(403, xml('Access\nDenied', 'a\u001b[31m\nb'))).code).to.equal('AccessDenied')
    expect(refusalOf(answer(403, xml('A', 'a\u009b31m\nb'.repeat(1000)))).message).to.match(/^[\x20-\x7e]{1,300}$/)
  })
  it('of a page is read from what native code answers', () => {
    expect(refusalOfMeta(403, meta('AccessDenied: No.'))).to.deep.equal({ status: 403, code: 'AccessDenied', message: 'No.' })
    expect(refusalOfMeta(403, meta('QuotaExceeded'))).to.deep.equal({ status: 403, code: 'QuotaExceeded', message: '' })
    expect(refusalOfMeta(405, null)).to.deep.equal({ status: 405, code: 'MethodNotAllowed', message: '' })
  })
  it('is an error with status, code and the remedy', () => {
    for (const [status, code, remedy] of [
      [403, 'SignatureDoesNotMatch', 'secret_key'], [403, 'InvalidAccessKeyId', 'access_key'], [403, 'AccessDenied', 's3:PutObject'], [400, 'ExpiredToken', 'session token'],
      [403, 'RequestTimeTooSkewed', 'NTP'], [404, 'NoSuchBucket', 'plugin.obj.bucket'], [400, 'AuthorizationHeaderMalformed', 'region'], [301, 'PermanentRedirect', 'region'],
      [405, 'MethodNotAllowed', 'S3 endpoint'], [403, 'QuotaExceeded', 'quota'],
    ] as const) {
      const error = refusalError({ status, code, message: 'Why not.' }, 'Writing the page "a"', 's3://b at http://h', 'a')
      expect(error).to.be.instanceOf(HiCacheError).and.deep.include({ code: 'ERR_IO', key: 'a', http: { status, code } })
      expect(error.message).to.match(new RegExp(`^Writing the page "a" failed: s3://b at http://h answered ${status} ${code}: Why not \\(.*${remedy}.*\\)\\.$`))
    }
    expect(remedyOf({ status: 400, code: 'toString', message: '' })).to.equal('')
    expect(sayRefusal({ status: 500, code: 'X', message: '' })).to.equal('500 X')
  })
  it('says whether other credentials would help', () => {
    expect(['ExpiredToken', 'TokenRefreshRequired', 'AccessDenied'].map(code => isExpired({ status: 400, code, message: '' }))).to.deep.equal([true, true, false])
  })
})
