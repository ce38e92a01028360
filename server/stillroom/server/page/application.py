"""The operator's page as a web application: three addresses, none of which changes anything."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stillroom.common.errors import StillroomError
from stillroom.common.markup import tag
from stillroom.common.pages.guard import Guard
from stillroom.common.pages.listening import Listening
from stillroom.common.pages.metrics import answer as metrics_answer
from stillroom.common.pages.serving import application, in_words, page
from stillroom.server.config import ServerConfig
from stillroom.server.page.measures import measures
from stillroom.server.page.overview import look
from stillroom.server.page.view import overview_body, run_body


def operator_page(config: ServerConfig, listening: Listening) -> Guard:
    """The application."""

    def front(request: Request) -> Response:
        try:
            seen = look(config)
        except StillroomError as error:
            return page(request, "stillroom", tag("main", in_words(error)), status=500)
        return page(request, f"{seen.consortium or 'stillroom'}: operator", overview_body(seen))

    def run(request: Request) -> Response:
        seen = look(config)
        number = request.path_params["number"]
        one = next((one for one in seen.runs if one.run.number == number), None)
        if one is None:
            nothing = tag("main", tag("h1", "There is no such run"), tag("a", "Back", href="/"))
            return page(request, "stillroom", nothing, status=404)
        return page(request, f"{one.run.name}: operator", run_body(seen, one))

    def metrics(_: Request) -> Response:
        return metrics_answer(measures(look(config)))

    routes = [
        Route("/", front),
        Route("/run/{number:int}", run),
        Route("/metrics", metrics),
    ]
    return application(routes, listening)
