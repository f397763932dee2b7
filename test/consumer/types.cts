import Fastify = require('fastify')
import tokensPlugin = require('fastify-mmc-tokens')
import schemas = require('fastify-mmc-tokens/schemas')

const app = Fastify()
app.register(tokensPlugin, { postgres: 'postgres://localhost/mmc', secret: 'secret' })
app.get('/hello', async request => schemas.isToken(request.applicationToken) && request.applicationToken.name)
